"""What the core needs of a model: the protocol that every family's adapter fulfils."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from freeprompt.core.control import Control
from freeprompt.core.rows import Rows, Text
from freeprompt.core.run import Run
from freeprompt.core.schedule import DDIM
from freeprompt.core.sites import Site
from freeprompt.core.words import Spelling


class Model(Protocol):
    """A latent diffusion model: text and images in and out, one prediction, one attach."""

    name: str
    sample_forwards: int

    @property
    def sites(self) -> tuple[Site, ...]:
        """All seams, in execution order within each kind."""

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs."""

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""

    def schedule(self, steps: int) -> DDIM:
        """Return the checkpoint's schedule for a number of steps."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (1, channels, height, width) of the latent of a picture of that many pixels."""

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Encode prompts, one row each."""

    def shown(self, text: Text, picture: Float[Tensor, "1 c h w"]) -> Text:
        """Add a picture's scaled latent to instructions, for models that take one."""

    def spell(self, prompt: str) -> Spelling:
        """Return a prompt's words and the tokens that they become."""

    def encode_image(self, x: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 c h w"]:
        """Encode a picture in [-1, 1] as a scaled latent (posterior mean)."""

    def decode(self, x: Float[Tensor, "items c h w"]) -> Float[Tensor, "items 3 height width"]:
        """Decode scaled latents to pictures, nominally in [-1, 1]."""

    def predict(
        self, x: Float[Tensor, "batch c h w"], timestep: int, text: Text
    ) -> Float[Tensor, "batch c h w"]:
        """Return the network's raw answer, and add the batch to `sample_forwards`."""

    def attach(self, controls: Sequence[Control], rows: Rows) -> AbstractContextManager[Run]:
        """Install controls for the length of a with-block and restore the model exactly."""

    def lend(self, kind: str) -> AbstractContextManager[Mapping[str, nn.Parameter]]:
        """Lend weights for training, for the length of a with-block, and restore them exactly.

        Args:
            kind: `all` of the denoiser's, or those of its `attention` layers.
        """

    def fingerprint(self) -> str:
        """Return a cheap identity of all weights as they are now, and of what steers the edit."""
