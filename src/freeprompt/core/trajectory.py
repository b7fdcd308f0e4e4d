"""The result of an inversion: an image's latents at every noise level."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeprompt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Latents of one image from clean to noise, and what was used to find them.

    Attributes:
        latents: x_0 ... x_T, (steps + 1, channels, height, width); the last is the start noise.
        prompt: Source prompt of the inversion; empty for none.
        null: Optimised unconditional embeddings, one a denoising step, (steps, tokens, width).
        provenance: Whatever the inversion wants to be remembered (name, settings, model).
    """

    latents: Float[Tensor, "levels channels height width"]
    prompt: str = ""
    null: Float[Tensor, "steps tokens embedding"] | None = None
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
        """The noise to start denoising from, x_T."""
        return self.latents[-1:]

    def after(self, step: int) -> Float[Tensor, "1 channels height width"]:
        """Return the latent that denoising step `step` should end at."""
        level = self.steps - step - 1
        return self.latents[level : level + 1]

    def save(self, path: str | Path) -> None:
        """Write as safetensors, the provenance in its metadata."""
        tensors = {"latents": self.latents.contiguous()}
        if self.null is not None:
            tensors["null"] = self.null.contiguous()
        meta = {"prompt": self.prompt, "provenance": json.dumps(dict(self.provenance))}
        save_file(tensors, Path(path), metadata=meta)

    @classmethod
    def load(cls, path: str | Path) -> "Trajectory":
        """Read what `save` wrote.

        Raises:
            ConfigError: if the file is missing or is not a saved trajectory.
        """
        try:
            with safe_open(Path(path), framework="pt") as file:
                meta, names = file.metadata() or {}, set(file.keys())
                return cls(
                    latents=file.get_tensor("latents"),
                    prompt=meta["prompt"],
                    null=file.get_tensor("null") if "null" in names else None,
                    provenance=json.loads(meta["provenance"]),
                )
        except Exception as error:
            raise ConfigError(f"{str(path)!r} is not a saved trajectory: {error}") from error
