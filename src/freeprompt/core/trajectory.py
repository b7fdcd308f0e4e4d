"""The result of an inversion: an image's latents at every noise level."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeprompt.core.rows import Text
from freeprompt.core.schedule import DDIM
from freeprompt.core.stochastic import Stochastic
from freeprompt.errors import ConfigError

TENSORS = ("latents", "null", "noises")
NUMBERS = ("eta", "first", "guidance", "negative", "proximal")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Latents of one image from clean to noise, and what was used to find them.

    Attributes:
        latents: x_0 ... x_T, (steps + 1, channels, height, width).
        prompt: Source prompt of the inversion; empty for none.
        null: Unconditional embeddings that the inversion found, (steps, tokens, width), one a
            denoising step, or one for all of them.
        noises: Noise z that each denoising step adds, (steps, channels, height, width); None for
            deterministic steps.
        eta: How much noise `noises` stands for, see `Stochastic`.
        first: Denoising step to begin with; those before it are left out.
        guidance: Scale at which denoising `start` with `prompt` leads back to the image.
        negative: Prompt of the unconditional rows then; where there is `null`, of what else goes
            with it (SDXL's pooled embedding).
        proximal: Quantile below which the difference that guidance scales is ignored, or None.
        provenance: Whatever the inversion wants to be remembered (name, settings, model).
    """

    latents: Float[Tensor, "levels channels height width"]
    prompt: str = ""
    null: Float[Tensor, "nulls tokens embedding"] | None = None
    noises: Float[Tensor, "steps channels height width"] | None = None
    eta: float = 1.0
    first: int = 0
    guidance: float = 1.0
    negative: str = ""
    proximal: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of denoising steps that the trajectory was made for."""
        return len(self.latents) - 1

    @property
    def clean(self) -> Float[Tensor, "1 channels height width"]:
        """The image's own latent, x_0."""
        return self.latents[:1]

    @property
    def start(self) -> Float[Tensor, "1 channels height width"]:
        """The latent to start denoising from: x_T, unless steps are left out."""
        level = self.steps - self.first
        return self.latents[level : level + 1]

    def after(self, step: int) -> Float[Tensor, "1 channels height width"]:
        """Return the latent that denoising step `step` should end at."""
        level = self.steps - step - 1
        return self.latents[level : level + 1]

    def schedule(self, base: DDIM) -> DDIM | Stochastic:
        """Return how to denoise: `base`, with the inversion's own noises if it found some."""
        if self.noises is None:
            return base
        return Stochastic(base=base, noises=self.noises, eta=self.eta)

    def nulls(self, plain: Text) -> Text | list[Text]:
        """Return the unconditional embedding, or one a step; `plain` if none was found."""
        if self.null is None:
            return plain
        found = [replace(plain, states=one[None].to(plain.states)) for one in self.null]
        return found[0] if len(found) == 1 else found

    def pack(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors, and all the rest as text."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        numbers = {name: getattr(self, name) for name in NUMBERS}
        meta = {
            "prompt": self.prompt,
            "provenance": json.dumps(dict(self.provenance)),
            "numbers": json.dumps(numbers),
        }
        return {name: x.contiguous() for name, x in tensors.items() if x is not None}, meta

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> "Trajectory":
        """Return what `pack` packed; tensors of other names are left alone."""
        values: dict[str, Any] = {name: tensors[name] for name in TENSORS if name in tensors}
        values |= json.loads(meta["numbers"])
        return cls(**values, prompt=meta["prompt"], provenance=json.loads(meta["provenance"]))

    def save(self, path: str | Path) -> None:
        """Write as safetensors, all but the tensors in its metadata."""
        tensors, meta = self.pack()
        save_file(tensors, Path(path), metadata=meta)

    @classmethod
    def load(cls, path: str | Path) -> "Trajectory":
        """Read what `save` wrote.

        Raises:
            ConfigError: if the file is missing or is not a saved trajectory.
        """
        try:
            with safe_open(Path(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys() if name in TENSORS}  # noqa: SIM118
                return cls.unpack(tensors, file.metadata() or {})
        except Exception as error:
            raise ConfigError(f"{str(path)!r} is not a saved trajectory: {error}") from error
