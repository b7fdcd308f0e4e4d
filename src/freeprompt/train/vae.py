"""Training of the autoencoder on freshly rendered scenes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from freeprompt.train.anatomy import build_vae, centre_latents, load_vae
from freeprompt.train.config import Preset, TrainConfig, VAEConfig
from freeprompt.train.data import (
    Seeds,
    batches,
    moved,
    portions,
    render,
    rendered_batch,
    scene_at,
    step_generator,
    to_bytes,
    to_signed,
)
from freeprompt.train.loop import Run, Trainer, autocast, fit, load_checkpoint
from freeprompt.train.sheet import write_sheet

# Mean per latent element, beside losses that are means per pixel.  Large enough that neighbouring
# latents decode alike, which the denoiser profits from; too small to cost sharpness.
KL_WEIGHT = 1e-4


def differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the finite differences of NCHW images along height and width."""
    return images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Sum L1, squared and gradient loss of NCHW images in [-1, 1].

    L1 keeps flat areas clean, the square punishes wrong hues, the gradient keeps eyes and wheels.
    """
    edges = sum(
        functional.l1_loss(ours, theirs)
        for ours, theirs in zip(differences(output), differences(target), strict=True)
    )
    return functional.l1_loss(output, target) + functional.mse_loss(output, target) + edges


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each NCHW image in [-1, 1], in dB."""
    error = (output.clamp(-1, 1) - target).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-12))


class VAETask:
    """The autoencoder, its loss and its validation, for `loop.fit`."""

    def __init__(
        self, sizes: VAEConfig, config: TrainConfig, device: torch.device, held_out: int
    ) -> None:
        self.sizes, self.config, self.device = sizes, config, device
        self.vae: Any = build_vae(sizes).to(device)
        self.module: nn.Module = self.vae
        scenes = [scene_at(Seeds.CHECK_VAE, i, "held-out") for i in range(held_out)]
        self.held_out = to_signed(render(scenes, sizes.resolution))

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Render the scenes of steps `start` .. `stop - 1`."""
        make = partial(
            rendered_batch,
            Seeds.VAE + self.config.seed,
            batch=self.config.batch,
            resolution=self.sizes.resolution,
        )
        return batches(make, start, stop, self.config.workers, self.device)

    def prepare(self, batch: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Turn a batch into images in [-1, 1] and the noise of their latents."""
        images = to_signed(*moved([batch], self.device))
        shape = (len(images), self.sizes.latent_channels, *2 * (self.sizes.latent_size,))
        generator = step_generator(Seeds.NOISE + self.config.seed, step, self.device)
        return images, torch.randn(shape, generator=generator, device=self.device)

    def loss(self, *parts: Tensor) -> Tensor:
        """Reconstruct images through sampled latents."""
        images, noise = parts
        with autocast(self.config, self.device):
            posterior = self.vae.encode(images).latent_dist
            output = self.vae.decode(posterior.mean + posterior.std * noise).sample
        divergence = posterior.kl().float().mean() / noise[0].numel()
        loss: Tensor = reconstruction_loss(output.float(), images) + KL_WEIGHT * divergence
        return loss

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure PSNR on held-out scenes and draw some of them above their reconstructions."""
        outputs = torch.cat([self.round_trip(part) for part in portions(self.held_out, 16)])
        quality = psnr(outputs, self.held_out)
        both = zip(portions(self.held_out[:24], 12), portions(outputs[:24], 12), strict=True)
        sheet = to_bytes(torch.cat([part for pair in both for part in pair])).numpy()
        write_sheet(folder / f"sheet-{step:07d}.png", sheet, min(12, len(self.held_out)))
        return {"psnr": float(quality.mean()), "psnr_worst": float(quality.min())}

    def round_trip(self, images: Tensor) -> Tensor:
        """Encode and decode images in [-1, 1] through the mean latent, in float32."""
        latent = self.vae.encode(images.to(self.device)).latent_dist.mean
        output: Tensor = self.vae.decode(latent).sample
        return output.cpu().float()


@torch.no_grad()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Encode uint8 NHWC images into scaled latents, float32, on the autoencoder's device."""
    signed = to_signed(images.to(vae.device)).to(vae.dtype)
    latent: Tensor = vae.encode(signed).latent_dist.mean.float() * vae.config.scaling_factor
    return latent


def normalise_latents(vae: Any, sizes: VAEConfig, count: int) -> np.ndarray:
    """Give the latents zero mean per channel and, scaled, unit variance over all channels.

    Args:
        vae: The autoencoder; changed in place, its reconstructions stay what they were.
        sizes: Its sizes.
        count: Training scenes to measure on.

    Returns:
        Standard deviation of each channel of the scaled latents.
    """
    vae.register_to_config(scaling_factor=1.0)
    parts = [
        encode(vae, rendered_batch(Seeds.VAE, i, 16, sizes.resolution)) for i in range(count // 16)
    ]
    latents = torch.cat(parts).cpu()
    mean = latents.mean(dim=(0, 2, 3))
    centre_latents(vae, mean)
    deviation = (latents - mean[:, None, None]).square().mean().sqrt()
    vae.register_to_config(scaling_factor=round(1 / float(deviation), 5))
    spread: np.ndarray = (latents.std(dim=(0, 2, 3)) / deviation).numpy()
    return spread


def train_vae(
    preset: Preset,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    init: Path | None = None,
) -> Trainer:
    """Train the autoencoder and leave its averaged weights in `run.folder / "vae"`.

    Args:
        preset: Sizes.
        config: How to train.
        run: Where, and when to stop.
        device: Where to train.
        init: Finished autoencoder whose decoder is trained on, or None. Its encoder stays as it
            is, so that latents cached with it, and a denoiser trained on them, stay valid.

    Raises:
        ModelError: if `init` cannot be loaded.
    """
    torch.manual_seed(Seeds.VAE + config.seed)
    task = VAETask(preset.vae, config, device, preset.held_out)
    if init is not None:
        task.vae.load_state_dict(load_vae(init).state_dict())
        for part in (task.vae.encoder, task.vae.quant_conv):
            part.requires_grad_(False)
    trainer = fit(task, config, run)
    export_vae(preset, run.folder)
    return trainer


def export_vae(preset: Preset, folder: Path) -> None:
    """Write the averaged weights of a run, normalised, as `folder / "vae"` for diffusers.

    Raises:
        ConfigError: if the folder has no checkpoint.
    """
    vae: Any = build_vae(preset.vae)
    averages = load_checkpoint(folder)["ema"]
    with torch.no_grad():
        for parameter, average in zip(vae.parameters(), averages, strict=True):
            parameter.copy_(average)
    normalise_latents(vae.eval(), preset.vae, count=512 if preset.name != "tiny" else 32)
    vae.save_pretrained(folder / "vae")
