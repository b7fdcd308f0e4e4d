"""Sizes and training settings of emoji-sd, as frozen values with three named presets."""

from dataclasses import dataclass, replace
from typing import Literal

from freeprompt.errors import ConfigError, unknown

SEEDS = 100_000
"""Seeds that a run may have, from 0; the streams of `data.Seeds` begin that far apart."""

Precision = Literal["bf16", "fp32"]
Optimiser = Literal["adamw", "muon"]
Prediction = Literal["v_prediction", "epsilon"]


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the image autoencoder; it shrinks an image by 4 in each direction.

    Attributes:
        resolution: Side of the square image in pixels, a multiple of 32.
        channels: Width of the three block levels, finest first.
        layers_per_block: Residual blocks per level of the encoder (the decoder has one more).
        latent_channels: Channels of a latent; 4 in Stable Diffusion 1.
        norm_groups: Groups of every group normalisation; divides every width.
    """

    resolution: int = 64
    channels: tuple[int, int, int] = (32, 64, 128)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_groups: int = 16

    @property
    def latent_size(self) -> int:
        """Side of the latent grid."""
        return self.resolution // 4


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the text encoder and the denoiser.

    Attributes:
        channels: Widths of the UNet's four levels, finest grid first.
        heads: Attention heads of every UNet block (`attention_head_dim` in an SD1 config).
        norm_groups: Groups of every group normalisation; divides every width.
        text_width: Width of the text encoder, which is the cross-attention width.
        text_layers: Layers of the text encoder.
        text_heads: Attention heads of the text encoder.
        prediction: What the UNet predicts.
    """

    channels: tuple[int, int, int, int] = (64, 128, 160, 176)
    heads: int = 4
    norm_groups: int = 16
    text_width: int = 192
    text_layers: int = 4
    text_heads: int = 6
    prediction: Prediction = "v_prediction"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Sizes of the judge.

    Attributes:
        resolution: Side in pixels at which the judge looks at an image.
        channels: Widths of its four levels, finest first.
    """

    resolution: int = 64
    channels: tuple[int, int, int, int] = (32, 64, 128, 160)


@dataclass(frozen=True, kw_only=True)
class LCMConfig:
    """What is distilled, and into how much.

    Attributes:
        rank: Rank of the LoRA.
        levels: Noise levels that the student learns to jump from; a multiple of the numbers of
            steps that it shall be good at.
        substeps: The teacher's DDIM steps between two levels.
        guidance: The teacher's guidance scale; the student has it built in.
        paths: Paths of the teacher to learn from.
        checked: Further ones to validate with.
    """

    rank: int = 16
    levels: int = 8
    substeps: int = 2
    guidance: float = 5.0
    paths: int = 272
    checked: int = 16


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How one network is trained.

    Attributes:
        batch: Scenes per optimiser step.
        steps: Length of the run; also the length of the cosine when `decay` is set.
        rate: Peak learning rate.
        warmup: Steps of linear warm-up.
        decay: Whether the rate falls to 1 % on a half cosine; otherwise it stays constant.
        optimiser: `adamw` or `muon`, see `optim`.
        betas: AdamW's two moments' decay.
        weight_decay: AdamW's decoupled weight decay.
        ema: Final decay of the averaged weights; reached slowly, see `loop.EMA`.
        clip: Largest gradient norm.
        precision: `bf16` runs the networks under autocast; parameters stay float32.
        threads: Shares of a batch that are computed at once, each on one CPU core.
        workers: Processes that render ahead; 0 renders in the training process.
        seed: Added to the seed of the stream of scenes and to that of the noise.
        log_every: Steps between two lines of the log.
        checkpoint_minutes: Minutes between two checkpoints.
        sheet_minutes: Minutes between two validations, each with a picture sheet.
    """

    batch: int
    steps: int
    rate: float
    warmup: int = 200
    decay: bool = False
    optimiser: Optimiser = "muon"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    precision: Precision = "bf16"
    threads: int = 1
    workers: int = 0
    seed: int = 0
    log_every: int = 20
    checkpoint_minutes: float = 3.0
    sheet_minutes: float = 6.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything needed to make emoji-sd on one kind of machine.

    Attributes:
        cache: Scenes whose latents are computed once, before the denoiser is trained.
        held_out: Scenes used by a validation.
        sheet: Prompts drawn by a validation of the denoiser, at most 24.
    """

    name: str
    vae: VAEConfig
    model: ModelConfig
    judge: JudgeConfig
    vae_train: TrainConfig
    model_train: TrainConfig
    judge_train: TrainConfig
    cache: int
    lcm_train: TrainConfig
    lcm: LCMConfig = LCMConfig()
    held_out: int = 64
    sheet: int = 24


_TINY_TRAIN = TrainConfig(
    batch=2, steps=4, rate=1e-3, warmup=2, precision="fp32", log_every=1, sheet_minutes=60.0
)

PRESETS = {
    "tiny": Preset(
        name="tiny",
        vae=VAEConfig(resolution=32, channels=(8, 8, 16), norm_groups=4),
        model=ModelConfig(
            channels=(16, 16, 16, 16),
            heads=2,
            norm_groups=8,
            text_width=32,
            text_layers=1,
            text_heads=2,
        ),
        judge=JudgeConfig(resolution=32, channels=(8, 8, 8, 8)),
        vae_train=_TINY_TRAIN,
        model_train=_TINY_TRAIN,
        judge_train=_TINY_TRAIN,
        lcm_train=_TINY_TRAIN,
        lcm=LCMConfig(rank=2, levels=4, paths=6, checked=2),
        cache=8,
        held_out=4,
        sheet=2,
    ),
    "cpu64": Preset(
        name="cpu64",
        vae=VAEConfig(),
        model=ModelConfig(),
        judge=JudgeConfig(),
        vae_train=TrainConfig(batch=8, steps=20_000, rate=1e-3, warmup=50, ema=0.998, threads=2),
        model_train=TrainConfig(
            batch=32,
            steps=1_000_000,
            rate=1e-3,
            ema=0.9995,
            threads=2,
            checkpoint_minutes=5.0,
            sheet_minutes=20.0,
        ),
        judge_train=TrainConfig(batch=32, steps=4_000, rate=2e-3, decay=True, ema=0.995, threads=2),
        lcm_train=TrainConfig(
            batch=8, steps=400, rate=1e-3, warmup=10, decay=True, optimiser="adamw", ema=0.99
        ),
        cache=40_000,
    ),
    "gpu128": Preset(
        name="gpu128",
        vae=VAEConfig(resolution=128),
        model=ModelConfig(),
        judge=JudgeConfig(),
        vae_train=TrainConfig(
            batch=64, steps=30_000, rate=8e-4, decay=True, workers=12, log_every=100
        ),
        model_train=TrainConfig(
            batch=512, steps=60_000, rate=1e-3, warmup=1_000, ema=0.9998, workers=12, log_every=100
        ),
        judge_train=TrainConfig(
            batch=256, steps=10_000, rate=2e-3, decay=True, workers=12, log_every=100
        ),
        lcm_train=TrainConfig(
            batch=256, steps=4_000, rate=5e-4, warmup=100, optimiser="adamw", workers=12
        ),
        lcm=LCMConfig(rank=32, paths=20_000, checked=256),
        cache=400_000,
        held_out=512,
    ),
}


def preset(name: str) -> Preset:
    """Look up a preset.

    Raises:
        ConfigError: for a name that does not exist; the message lists those that do.
    """
    if name not in PRESETS:
        raise unknown(ConfigError, "preset", name, PRESETS)
    return PRESETS[name]


def with_options(config: TrainConfig, **options: int | float | None) -> TrainConfig:
    """Copy `config` with the options that are not None.

    Raises:
        ConfigError: if a batch size, a number of steps or a rate is not positive, or a seed is
            out of its range, behind which other streams of scenes begin.
    """
    given = {key: value for key, value in options.items() if value is not None}
    for key in ("batch", "steps", "rate"):
        if key in given and not given[key] > 0:
            raise ConfigError(f"--{key} is {given[key]}, but must be above 0.")
    if not 0 <= given.get("seed", 0) < SEEDS:
        raise ConfigError(f"--seed is {given['seed']}, but must be 0 .. {SEEDS - 1}.")
    return replace(config, **given)  # type: ignore[arg-type]
