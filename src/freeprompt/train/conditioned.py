"""What is trained on top of a finished emoji-sd: networks that let it see a second picture."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from freeprompt.errors import ConfigError, unknown
from freeprompt.train.anatomy import load_pipeline
from freeprompt.train.config import TrainConfig, with_options
from freeprompt.train.data import batches, step_generator
from freeprompt.train.loop import Run, autocast, fit
from freeprompt.train.model import loss_weight, tokenise
from freeprompt.train.sheet import write_sheet
from freeprompt.train.vae import encode

CONFIGS = {
    "tiny": TrainConfig(
        batch=2, steps=2, rate=1e-3, warmup=1, precision="fp32", log_every=1, sheet_minutes=60.0
    ),
    "cpu64": TrainConfig(
        batch=16, steps=500, rate=1e-3, warmup=20, decay=True, ema=0.99, sheet_minutes=60.0
    ),
}
"""How the three are trained, by the size of the base model."""
HELD_OUT = {"tiny": 2, "cpu64": 48}
SHOWN = 8


class Base:
    """A finished pipeline that stays as it is.

    Args:
        folder: The saved pipeline.
        device: Where to put it.

    Raises:
        ModelError: if the folder cannot be loaded.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.pipe: Any = load_pipeline(folder, device)
        for part in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
            part.eval().requires_grad_(False)
        self.device = device
        self.tune(self.pipe.unet)
        self.levels = self.pipe.scheduler.alphas_cumprod.to(device)
        self.prediction: str = self.pipe.scheduler.config.prediction_type

    def tune(self, network: Any) -> None:
        """Give a network the attention that trains fastest: on a CPU, plain matrix products."""
        if self.device.type == "cpu":
            network.set_attn_processor(AttnProcessor())

    @property
    def resolution(self) -> int:
        """Side of its pictures in pixels."""
        return int(self.pipe.vae.config.sample_size)

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Return the token ids of prompts."""
        return tokenise(self.pipe.tokenizer, prompts)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noised latents, and what the network should say of them."""
        level = self.levels[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        velocity = level.sqrt() * noise - (1 - level).sqrt() * latents
        return noisy, velocity if self.prediction == "v_prediction" else noise

    def weighted(self, errors: Tensor, timesteps: Tensor) -> Tensor:
        """Weigh the error of each latent by its noise level, as when the base was trained."""
        level = self.levels[timesteps]
        return errors * loss_weight(level / (1 - level), self.prediction)


def noisy_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps, more of them where there is much noise, as there the layout is decided.

    Source: Mou et al., arXiv:2302.08453, section 3.4: t = (1 - u^3) T, here stratified in u.
    """
    device = generator.device
    offsets = torch.rand(batch, generator=generator, device=device)
    order = torch.randperm(batch, generator=generator, device=device)
    share = 1 - ((order + offsets) / batch) ** 3
    return (share * 1000).long().clamp(0, 999)


class ConditionedTask:
    """A network that is trained to help the base see a second picture, for `loop.fit`.

    A batch is (pictures to learn, second pictures, token ids), uint8 NHWC and int64.

    Args:
        base: The finished pipeline.
        config: How to train.
        module: What is trained.
        held_out: Scenes that a validation uses.
        seeds: First seeds of the streams of scenes, for training and for validation.
    """

    def __init__(
        self,
        base: Base,
        config: TrainConfig,
        module: nn.Module,
        held_out: int,
        seeds: tuple[int, int],
    ) -> None:
        self.base, self.config, self.device = base, config, base.device
        self.module = module.to(base.device).train().requires_grad_(True)
        self.seed, self.check_seed = seeds[0] + config.seed, seeds[1]
        self.held_out = self.drawn(self.check_seed, 0, held_out, check=True)

    @abstractmethod
    def drawn(self, seed: int, step: int, count: int, check: bool) -> tuple[Tensor, ...]:
        """Draw one batch; for a `check`, without emptying anything."""

    @abstractmethod
    def seen(self, second: Tensor) -> Tensor:
        """Turn the second pictures into what the module sees of them, with its dropout done."""

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """Return the network's answer."""

    @abstractmethod
    def blind(self, seen: Tensor) -> Tensor | None:
        """Return what stands for no second picture; None if the base answers then."""

    @abstractmethod
    def stock(self) -> Any:
        """Return the stock pipeline with what is trained."""

    def parts(self) -> dict[str, Any]:
        """Return the base's parts for a stock pipeline, which checks no pictures."""
        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        parts = {name: getattr(self.base.pipe, name) for name in names}
        without = {"safety_checker": None, "feature_extractor": None}
        return {**parts, **without, "requires_safety_checker": False}

    @abstractmethod
    def show(self, folder: Path, step: int) -> None:
        """Draw a picture sheet."""

    @abstractmethod
    def export(self, folder: Path) -> Path:
        """Write what was trained as the libraries load it; return the folder."""

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Draw the scenes of steps `start` .. `stop - 1`."""
        return batches(self.draw, start, stop, self.config.workers, self.device)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        """Draw the scenes of one step."""
        return self.drawn(self.seed, step, self.config.batch, check=False)

    def prepare(self, batch: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """Encode a batch and add timesteps and noise."""
        images, second, tokens = batch
        generator = step_generator(self.seed, step, self.device)
        with torch.no_grad():
            latents = encode(self.base.pipe.vae, images)
            seen = self.seen(second)
        timesteps = noisy_timesteps(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        return latents, seen, tokens.to(self.device), timesteps, noise

    def loss(self, *parts: Tensor) -> Tensor:
        """Compute the weighted squared error."""
        latents, seen, tokens, timesteps, noise = parts
        errors = self.errors(latents, seen, tokens, timesteps, noise)
        return self.base.weighted(errors, timesteps).mean()

    def errors(
        self,
        latents: Tensor,
        seen: Tensor | None,
        tokens: Tensor,
        timesteps: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Compute the mean squared error of each latent, `(batch,)`; of the base without `seen`."""
        noisy, target = self.base.noised(latents, noise, timesteps)
        with autocast(self.config, self.device):
            with torch.no_grad():
                text = self.base.pipe.text_encoder(tokens).last_hidden_state
            if seen is None:
                output = self.base.pipe.unet(noisy, timesteps, text).sample
            else:
                output = self.predict(noisy, timesteps, text, seen)
        errors: Tensor = (output.float() - target).square().flatten(1).mean(1)
        return errors

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the error on scenes of its own, with and without the second picture."""
        self.module.eval()
        latents, seen, tokens, timesteps, noise = self.prepare(self.held_out, 0)
        result = {}
        for name, given in (("held_out", seen), ("blind", self.blind(seen))):
            errors = self.errors(latents, given, tokens, timesteps, noise)
            result[name] = float(self.base.weighted(errors, timesteps).mean())
        self.show(folder, step)
        self.module.train()
        return result


def config_of(preset: str, **options: int | float | None) -> TrainConfig:
    """Return a preset's settings with the options that are not None.

    Raises:
        ConfigError: for another preset, or a number that is not positive.
    """
    if preset not in CONFIGS:
        raise unknown(ConfigError, "preset", preset, CONFIGS)
    return with_options(CONFIGS[preset], **options)


def finish(task: ConditionedTask, config: TrainConfig, run: Run) -> Path:
    """Train, and leave the averaged weights in the run's folder, also after an early end.

    Returns:
        The folder that the libraries load.
    """
    trainer = fit(task, config, run)
    with trainer.ema.applied(task.module):
        return task.export(run.folder)


def sheet(path: Path, rows: Sequence[Any], captions: Sequence[str]) -> None:
    """Write rows of uint8 NHWC pictures, one column a caption."""
    stacked = np.concatenate([np.asarray(row) for row in rows])
    texts = [*[""] * (len(stacked) - len(captions)), *captions]
    write_sheet(path, stacked, len(captions), texts)


def as_arrays(pipe: Any, **arguments: Any) -> Any:
    """Draw with a stock pipeline; uint8 NHWC."""
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        # the adapter's pipeline decodes by a way of its own, which diffusers will take away
        warnings.filterwarnings("ignore", ".*decode_latents method", FutureWarning)
        images = pipe(num_inference_steps=25, output_type="np", **arguments).images
    return (images * 255).round().astype("uint8")
