"""Noise schedules as pure functions of a step index: no state, nothing to reset."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from freeprompt.errors import ConfigError, UnsupportedModel

Prediction = Literal["epsilon", "v_prediction"]
Spacing = Literal["leading", "trailing"]


class Schedule(Protocol):
    """What the loop and the inversions need of a schedule; step `i` runs from 0 (noisiest)."""

    @property
    def steps(self) -> int:
        """Number of denoising steps."""

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Label for the network at each step."""

    def noise(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Predicted noise, from the network's raw answer at `x`."""

    def step(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """One step towards the image."""

    def unstep(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """One step towards noise."""


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """Deterministic DDIM (eta 0) on a discrete-time schedule.

    Coefficients and arithmetic are float64 (float32 where a device has no float64); results come
    back in the dtype of the input. Clipping and thresholding of x_0 do not exist here.

    Args:
        steps: Number of denoising steps.
        prediction: What the network predicts.
        spacing: How the steps are laid over the training timesteps.
        steps_offset: Added to every timestep under `leading` spacing (SD uses 1).
        span: Number of training timesteps, from the clean end, that the steps are laid over; None
            for all.
        set_alpha_to_one: Whether the last step ends at a noise-free level instead of timestep 0.
        alphas_cumprod: Cumulative alphas of training, one a training timestep, in (0, 1].

    Raises:
        ConfigError: for a number of steps that the schedule cannot be divided into.

    Source: Song et al., arXiv:2010.02502, eq. 12; v-prediction: Salimans & Ho, arXiv:2202.00512.
    """

    steps: int
    prediction: Prediction = "epsilon"
    spacing: Spacing = "leading"
    steps_offset: int = 1
    span: int | None = None
    set_alpha_to_one: bool = False
    alphas_cumprod: tuple[float, ...] = field(
        default_factory=lambda: alphas_from_betas(sd_betas()), repr=False
    )

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise ConfigError(
                f"The number of steps must be a whole number >= 1, not {self.steps!r}."
            )
        if self.steps > self.covered or max(self.timesteps) >= self.covered:
            raise ConfigError(
                f"{self.steps} steps are too many for a model trained on {self.covered} "
                f"timesteps; at most {self.covered - 1} are possible, 50 is usual."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> "DDIM":
        """Read a diffusers scheduler config of any kind.

        Only what defines the trained model (betas, prediction type) and the spacing is taken over;
        keys that are missing get Stable Diffusion's values, and clipping is never switched on.

        Raises:
            UnsupportedModel: for a scheduler of another kind of noise than diffusion in discrete
                time, such as flow matching.
            ConfigError: for a prediction type or beta schedule that DDIM cannot serve.
        """
        _check_kind(config)
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise ConfigError(
                f"The checkpoint's prediction type is {prediction!r}; DDIM editing works with "
                "'epsilon' and 'v_prediction'."
            )
        spacing = config.get("timestep_spacing", "leading")
        if "original_inference_steps" in config:  # a consistency model: steps begin at pure noise
            spacing = "trailing"
        return cls(
            steps=steps,
            prediction=prediction,
            # linspace belongs to other samplers; for DDIM it has no exact inverse
            spacing=spacing if spacing in ("leading", "trailing") else "leading",
            steps_offset=int(config.get("steps_offset", 1)),
            set_alpha_to_one=bool(config.get("set_alpha_to_one", False)),
            alphas_cumprod=alphas_from_betas(
                betas_from_config(config), zero_snr=bool(config.get("rescale_betas_zero_snr"))
            ),
        )

    def with_steps(self, steps: int) -> "DDIM":
        """Return the same schedule with another number of steps."""
        return replace(self, steps=steps)

    def over(self, share: float) -> "DDIM":
        """Return trailing steps over the lowest `share` of the noise levels, in (0, 1]."""
        span = max(self.steps, round(share * self.train_steps))
        return replace(self, span=span, spacing="trailing")

    @property
    def covered(self) -> int:
        """Number of training timesteps that the steps are laid over."""
        return self.train_steps if self.span is None else self.span

    @property
    def train_steps(self) -> int:
        """Number of timesteps in training."""
        return len(self.alphas_cumprod)

    @cached_property
    def timesteps(self) -> tuple[int, ...]:
        """Labels in denoising order, noisiest first."""
        if self.spacing == "leading":
            grid = np.arange(self.steps) * (self.covered // self.steps) + self.steps_offset
            return tuple(int(t) for t in grid[::-1])
        ratio = self.covered / self.steps
        grid = np.round(np.arange(self.covered, 0, -ratio)).astype(int) - 1
        return tuple(int(t) for t in grid[: self.steps])

    def levels(self, step: int) -> tuple[float, float]:
        """Return the cumulative alphas before and after denoising step `step`.

        Raises:
            ConfigError: if `step` is outside 0..steps-1.
        """
        if not 0 <= step < self.steps:
            raise ConfigError(f"Step {step} does not exist; steps run from 0 to {self.steps - 1}.")
        before = self.timesteps[step]
        after = before - self.covered // self.steps
        final = 1.0 if self.set_alpha_to_one else self.alphas_cumprod[0]
        return self.alphas_cumprod[before], self.alphas_cumprod[after] if after >= 0 else final

    def noise(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Turn the network's raw answer into predicted noise.

        With v-prediction the level is that of the label the network was given, also when `x` is
        the other end of the step, as it is in DDIM inversion.

        Args:
            x: Latent that the network saw, any float dtype.
            prediction: Its answer, same shape.
            step: Index of the step whose label it was given.

        Returns:
            Noise of the same shape. A converted v-prediction stays in float64: near pure noise a
            step divides by a small number, which would magnify rounding.
        """
        if self.prediction == "epsilon":
            return prediction
        alpha, _ = self.levels(step)
        wide = wide_dtype(x)
        noise: Tensor = alpha**0.5 * prediction.to(wide) + (1 - alpha) ** 0.5 * x.to(wide)
        return noise

    def noised(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """Return the latent that denoising step `step` starts from, for an image and noise.

        Args:
            clean: The image's latent x_0, scaled.
            noise: Unit-variance noise of the same shape.
            step: Index in denoising order.

        Raises:
            ConfigError: if `step` is outside 0..steps-1.
        """
        alpha, _ = self.levels(step)
        wide = wide_dtype(clean)
        noisy: Tensor = alpha**0.5 * clean.to(wide) + (1 - alpha) ** 0.5 * noise.to(wide)
        return noisy.to(clean.dtype)

    def step(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """Move a latent one step towards the image, for given predicted noise."""
        before, after = self.levels(step)
        return _move(x, noise, before, after)

    def unstep(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """Move a latent one step towards noise: the exact inverse of `step` for the same noise.

        Args:
            x: Latent at the end of denoising step `step`, scaled (VAE factor applied).
            noise: Predicted noise; same shape as `x`.
            step: Index in denoising order, 0 (most noise) .. steps-1.

        Returns:
            Latent at the beginning of that step; dtype of `x`.

        Raises:
            ConfigError: if `step` is outside 0..steps-1.

        Note: DDIM inversion calls this with noise predicted at the other end of the step; that is
        its only approximation.

        Source: Song et al., arXiv:2010.02502, eq. 12, solved for x_t.

        Example:
            >>> s = DDIM(steps=10); x = torch.randn(1, 4, 8, 8); e = torch.randn_like(x)
            >>> torch.allclose(s.unstep(s.step(x, e, 3), e, 3), x, atol=1e-5)
            True
        """
        before, after = self.levels(step)
        return _move(x, noise, after, before)


def _check_kind(config: Mapping[str, Any]) -> None:
    """Refuse schedulers whose noise levels are not those of betas: they would be read as SD's."""
    betas = {"beta_start", "beta_schedule", "trained_betas"} & set(config)
    kinds = {
        "flow matching": config.get("use_flow_sigmas")
        or (not betas and {"shift", "use_dynamic_shifting"} & set(config)),
        "noise levels of its own (EDM)": not betas and {"sigma_data", "sigma_max"} & set(config),
    }
    for kind, found in kinds.items():
        if found:
            raise UnsupportedModel(
                f"The checkpoint's scheduler ({config.get('_class_name', 'unnamed')}) works with "
                f"{kind}, not with diffusion over discrete timesteps, which DDIM editing needs. "
                "Use a checkpoint of Stable Diffusion 1, 2 or XL."
            )


def sd_betas() -> Tensor:
    """Return Stable Diffusion's betas: scaled linear, 0.00085 to 0.012, 1000 timesteps."""
    return betas_from_config({"beta_schedule": "scaled_linear"})


def betas_from_config(config: Mapping[str, Any]) -> Tensor:
    """Return training betas, (timesteps,), in the float32 arithmetic that models are trained with.

    Raises:
        ConfigError: for an unknown beta schedule.
    """
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float32)
    count = int(config.get("num_train_timesteps", 1000))
    low, high = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    match config.get("beta_schedule", "scaled_linear"):
        case "scaled_linear":
            return torch.linspace(low**0.5, high**0.5, count, dtype=torch.float32) ** 2
        case "linear":
            return torch.linspace(low, high, count, dtype=torch.float32)
        case "squaredcos_cap_v2":
            time = torch.arange(count + 1, dtype=torch.float64) / count
            bar = torch.cos((time + 0.008) / 1.008 * torch.pi / 2) ** 2
            return (1 - bar[1:] / bar[:-1]).clamp(max=0.999).float()
        case other:
            raise ConfigError(
                f"The checkpoint's beta schedule is {other!r}; known are scaled_linear, linear, "
                "squaredcos_cap_v2 and explicit trained_betas."
            )


def alphas_from_betas(betas: Tensor, *, zero_snr: bool = False) -> tuple[float, ...]:
    """Return cumulative alphas; `zero_snr` rescales them so that the last level is pure noise.

    A level of exactly zero cannot be divided by, so it is kept at 2**-24 as diffusers does.

    Source: Lin et al., arXiv:2305.08891, algorithm 1.
    """
    bar = torch.cumprod(1.0 - betas, dim=0)
    if zero_snr:
        root = bar.sqrt()
        bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        bar[-1] = 2**-24
    return tuple(bar.double().tolist())


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return what a step is computed in: float64, where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _move(x: Tensor, noise: Tensor, here: float, there: float) -> Tensor:
    """Move `x` from cumulative alpha `here` to `there` along predicted noise."""
    wide = wide_dtype(x)
    x0 = (x.to(wide) - (1 - here) ** 0.5 * noise.to(wide)) / here**0.5
    moved: Tensor = there**0.5 * x0 + (1 - there) ** 0.5 * noise.to(wide)
    return moved.to(x.dtype)
