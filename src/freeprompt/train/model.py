"""Training of the denoiser and its text encoder on cached latents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from freeprompt.errors import ConfigError, ModelError
from freeprompt.train.anatomy import (
    TRAIN_TIMESTEPS,
    assemble,
    build_scheduler,
    build_text_encoder,
    build_unet,
    load_pipeline,
    load_vae,
    save_pipeline,
)
from freeprompt.train.cache import LatentCache, build_cache
from freeprompt.train.config import ModelConfig, Preset, TrainConfig
from freeprompt.train.data import Seeds, batches, moved, portions, render, scene_at, step_generator
from freeprompt.train.loop import Run, Trainer, autocast, check_run, fit, load_checkpoint
from freeprompt.train.sheet import write_sheet
from freeprompt.train.tokenizer import build_tokenizer
from freeprompt.train.vae import encode
from freeprompt.world import vocabulary

EMPTY_PROMPTS = 0.1
MAX_SNR = 5.0
SHEET_PROMPTS = (
    "a red car",
    "a blue car",
    "a green car on the street",
    "a yellow bus in the snow",
    "an orange truck in the desert",
    "a purple umbrella on the beach",
    "a pink dress",
    "a black teapot in the park",
    "a white house at night",
    "a teal balloon in the desert",
    "a brown chair",
    "a photo of a gold bell in the snow",
    "a cat standing in the park",
    "a dog standing in the park",
    "a rabbit standing in the snow",
    "an elephant standing in the desert",
    "a pig",
    "a zebra standing on the beach",
    "a penguin standing in the snow",
    "a flamingo standing at night",
    "a photo of a horse standing in the park",
    "a drawing of a tiger standing on the street",
    "a sketch of a cow",
    "a pixel art of a turtle standing on the beach",
)


def loss_weight(snr: Tensor, prediction: str) -> Tensor:
    """Weigh the squared error so that noise levels with hardly any noise do not dominate.

    In terms of the predicted velocity the weight is 1 up to `MAX_SNR` and falls beyond.  That is
    min-SNR-5 (Hang et al., arXiv:2303.09556) but for one: the levels with much noise keep their
    full weight. On a grid this small it is there that the kind of subject is decided.

    Args:
        snr: Signal-to-noise ratio of each latent, above 0.
        prediction: `v_prediction` or `epsilon`: what the error is of.
    """
    velocity = (snr + 1).clamp(max=MAX_SNR) / (snr + 1)
    return velocity if prediction == "v_prediction" else velocity * (snr + 1) / snr


def stratified_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Draw one timestep from each of `batch` equal parts of 0 .. 999, in random order."""
    device = generator.device
    offsets = torch.rand(batch, generator=generator, device=device)
    order = torch.randperm(batch, generator=generator, device=device)
    return ((order + offsets) / batch * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


@torch.no_grad()
def start_from_identity(unet: nn.Module) -> None:
    """Zero the last layer of every residual branch and of the network, which speeds the start."""
    for name, module in unet.named_modules():
        last = name.endswith((".conv2", ".proj_out")) or name == "conv_out"
        if last and isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()


class ModelTask:
    """Denoiser and text encoder, their loss and their validation, for `loop.fit`.

    Args:
        preset: Sizes.
        config: How to train.
        vae: The finished autoencoder.
        cache: Its latents.
        device: Where to train.
    """

    def __init__(
        self,
        preset: Preset,
        config: TrainConfig,
        vae: Any,
        cache: LatentCache,
        device: torch.device,
    ) -> None:
        self.sizes, self.config, self.device = preset.model, config, device
        self.sheet = preset.sheet
        self.vae, self.cache = vae.to(device), cache
        self.tokenizer = build_tokenizer(vocabulary())
        self.text_encoder: Any = build_text_encoder(preset.model, self.tokenizer)
        self.unet: Any = build_unet(preset.model, preset.vae)
        start_from_identity(self.unet)
        parts = {"unet": self.unet, "text_encoder": self.text_encoder}
        self.module: nn.Module = nn.ModuleDict(parts).to(device)
        self.levels = build_scheduler(preset.model).alphas_cumprod.to(device)
        self._tune_for(device)
        self.held_out = _held_out(self.vae, preset)

    def _tune_for(self, device: torch.device) -> None:
        """Choose the attention that trains fastest: on a CPU, plain matrix products."""
        if device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())
            self.text_encoder.set_attn_implementation("eager")

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Draw latents and token ids of steps `start` .. `stop - 1`."""
        return batches(self.draw, start, stop, self.config.workers, self.device)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the latents and, with some prompts emptied, the token ids of one step."""
        seed = Seeds.CAPTIONS + self.config.seed
        latents, prompts = self.cache.batch(seed, step, self.config.batch)
        chance = torch.rand(len(prompts), generator=step_generator(seed, step))
        kept = ["" if c < EMPTY_PROMPTS else p for c, p in zip(chance, prompts, strict=True)]
        return latents, tokenise(self.tokenizer, kept)

    def prepare(self, batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, ...]:
        """Add timesteps and noise to latents and token ids."""
        latents, tokens = moved(batch, self.device)
        generator = step_generator(Seeds.NOISE + self.config.seed, step, self.device)
        timesteps = stratified_timesteps(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        return latents, tokens, timesteps, noise

    def loss(self, *parts: Tensor) -> Tensor:
        """Compute the weighted squared error."""
        latents, tokens, timesteps, noise = parts
        return self.weighted(self.errors(latents, tokens, timesteps, noise), timesteps).mean()

    def weighted(self, errors: Tensor, timesteps: Tensor) -> Tensor:
        """Weigh the error of each latent by its noise level."""
        level = self.levels[timesteps]
        return errors * loss_weight(level / (1 - level), self.sizes.prediction)

    def errors(self, latents: Tensor, tokens: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Compute the mean squared error of each latent, unweighted, `(batch,)`."""
        level = self.levels[timesteps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        velocity = level.sqrt() * noise - (1 - level).sqrt() * latents
        target = velocity if self.sizes.prediction == "v_prediction" else noise
        with autocast(self.config, self.device):
            text = self.text_encoder(tokens).last_hidden_state
            output = self.unet(noisy, timesteps, text).sample
        errors: Tensor = (output.float() - target).square().flatten(1).mean(1)
        return errors

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the error on held-out scenes and draw the sheet's prompts."""
        latents, prompts = self.held_out
        generator = step_generator(Seeds.NOISE, 0, self.device)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        timesteps = stratified_timesteps(len(latents), generator)
        tokens = tokenise(self.tokenizer, prompts).to(self.device)
        errors = self.errors(latents, tokens, timesteps, noise)
        shown = SHEET_PROMPTS[: self.sheet]
        images = draw_prompts(self.pipeline(), shown, steps=25, guidance=5.0)
        write_sheet(folder / f"sheet-{step:07d}.png", images, 8, shown)
        loss = self.weighted(errors, timesteps).mean()
        return {"held_out_loss": float(loss), "held_out_error": float(errors.mean())}

    def pipeline(self) -> StableDiffusionPipeline:
        """Put the networks together as they are now."""
        return assemble(self.vae, self.text_encoder, self.tokenizer, self.unet, self.sizes)


def _held_out(vae: Any, preset: Preset) -> tuple[Tensor, list[str]]:
    """Encode held-out scenes; return their latents on the VAE's device and their captions."""
    scenes = [scene_at(Seeds.CHECK_VAE, i, "held-out") for i in range(preset.held_out)]
    images = render(scenes, preset.vae.resolution)
    latents = torch.cat([encode(vae, part) for part in portions(images, 32)])
    return latents, [scene.caption() for scene in scenes]


def tokenise(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Turn prompts into token ids, `(batch, 77)` int64, padded as in Stable Diffusion 1."""
    ids: Tensor = tokenizer(
        list(prompts), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return ids


@torch.no_grad()
def draw_prompts(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    steps: int,
    guidance: float,
    seed: int = 0,
) -> Any:
    """Generate one image per prompt, each from noise of its own seed.

    Returns:
        uint8 array (count, height, width, 3) in 0..255.
    """
    pipeline.set_progress_bar_config(disable=True)
    generators = [step_generator(Seeds.PROMPTS + seed, i) for i in range(len(prompts))]
    images = pipeline(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        output_type="np",
    ).images
    return (images * 255).round().astype("uint8")


def _warm_start(task: ModelTask, folder: Path) -> None:
    """Give the networks the weights of a saved pipeline."""
    saved: Any = load_pipeline(folder, task.device)
    try:
        task.unet.load_state_dict(saved.unet.state_dict())
        task.text_encoder.load_state_dict(saved.text_encoder.state_dict())
    except RuntimeError as error:
        raise ModelError(f"{folder} cannot start this model: {error}") from error


def _vae_of(preset: Preset, folder: Path) -> Any:
    """Load the autoencoder of a preset's runs.

    Raises:
        ConfigError: if it was made for pictures of another size.
        ModelError: if the folder holds none.
    """
    vae = load_vae(folder)
    size = vae.config.sample_size
    if size != preset.vae.resolution:
        raise ConfigError(
            f"{folder} was trained at {size} pixels, and preset {preset.name!r} is for "
            f"{preset.vae.resolution}. Give the preset that it was trained with (--preset)."
        )
    return vae


def train_model(
    preset: Preset,
    config: TrainConfig,
    run: Run,
    vae_folder: Path,
    device: torch.device,
    init: Path | None = None,
) -> Trainer | None:
    """Train the denoiser and the text encoder; fills the cache in `run.folder / "cache"` first.

    Args:
        preset: Sizes.
        config: How to train.
        run: Where, and when to stop.
        vae_folder: The finished autoencoder.
        device: Where to train.
        init: Folder of a saved pipeline to start from, or None.

    Returns:
        The trainer; None if the run ended before the cache was full, which stays as it is.

    Raises:
        ConfigError: if the run cannot be started or resumed, or the autoencoder is another
            preset's.
        ModelError: if the autoencoder or `init` cannot be loaded.
    """
    check_run(run)
    vae, cache = _vae_of(preset, vae_folder).to(device), run.folder / "cache"
    size, count, workers = preset.vae.resolution, preset.cache, config.workers
    if not build_cache(vae, size, cache, count, workers, run.report, run.ends):
        return None
    torch.manual_seed(Seeds.MODEL + config.seed)
    task = ModelTask(preset, config, vae, LatentCache(cache), device)
    if init is not None and not run.resume:
        _warm_start(task, init)
    return fit(task, config, run)


def export_model(
    preset: Preset, folder: Path, vae_folder: Path, output: Path, dtype: torch.dtype = torch.float16
) -> int:
    """Write the averaged weights of a run as a folder for `from_pretrained`.

    Args:
        preset: Sizes of the run.
        folder: The run.
        vae_folder: The autoencoder it was trained with.
        output: Folder to write.
        dtype: Of the weights.

    Returns:
        Size of the folder in bytes.

    Raises:
        ConfigError: if there is no checkpoint, or the autoencoder is another preset's.
        ModelError: if the autoencoder cannot be loaded.
    """
    vae = _vae_of(preset, vae_folder)
    tokenizer = build_tokenizer(vocabulary())
    text_encoder = build_text_encoder(preset.model, tokenizer)
    unet = build_unet(preset.model, preset.vae)
    averages = load_checkpoint(folder)["ema"]
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
    pipeline = assemble(vae, text_encoder, tokenizer, unet, preset.model)
    return save_pipeline(pipeline, output, dtype)


__all__ = ["ModelConfig", "ModelTask", "draw_prompts", "export_model", "train_model"]
