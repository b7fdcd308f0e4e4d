"""What an edit starts from: a real image that has been inverted, or start noise."""

from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from freeprompt.core import Tape, Trajectory
from freeprompt.core.loop import Callback
from freeprompt.errors import ConfigError
from freeprompt.images import psnr, resize, to_images
from freeprompt.inversion import Inversion, reconstruct, reconstruction_cost
from freeprompt.models import UNetModel
from freeprompt.picture import Picture

MAX_SEED = 2**63 - 1
RECONSTRUCTION = "_reconstruction"  # where an image keeps it


@dataclass(frozen=True, kw_only=True)
class InvertedImage:
    """A real image with its inversion, to be edited as often as you like.

    Attributes:
        model: The model that inverted it.
        picture: The image as it was read.
        size: (width, height) at which the model works on it.
        trajectory: The inversion.
        inversion: How it was found; None if the method needs only the image's own latent.
        tape: What a method recorded meanwhile, or None.
        control: The control images it was inverted with, as provenance tells of them.
    """

    model: UNetModel
    picture: Picture
    size: tuple[int, int]
    trajectory: Trajectory
    inversion: Inversion | None
    tape: Tape | None = None
    control: tuple[dict[str, Any], ...] = ()

    @cached_property
    def round_trip(self) -> Image.Image:
        """The image through the VAE and back: the best that any edit of it could keep."""
        return self._decode(self.trajectory.clean)

    @property
    def reconstruction(self) -> Image.Image:
        """The image denoised again from its own noise, at the model's size.

        Computed when first asked for, at `reconstruction_cost`. Without an inversion there is no
        noise to start from, and this is the VAE's round trip.
        """
        return self.reconstruct()

    def reconstruct(self, callback: Callback | None = None) -> Image.Image:
        """Compute the reconstruction now, if it is not there yet, reporting every step."""
        if self.inversion is None:
            return self.round_trip
        # not a cached property: before Python 3.12 that holds a lock of the whole class meanwhile,
        # and images that are reconstructed side by side wait for each other
        if RECONSTRUCTION not in self.__dict__:
            latent = reconstruct(self.model, self.trajectory, callback)
            self.__dict__[RECONSTRUCTION] = self._decode(latent)
        picture: Image.Image = self.__dict__[RECONSTRUCTION]
        return picture

    @property
    def reconstruction_cost(self) -> int:
        """Sample-forwards that the reconstruction takes: one a step for DDIM."""
        return reconstruction_cost(self.trajectory)

    @property
    def psnr(self) -> float:
        """PSNR in dB of the reconstruction against the VAE's round trip; higher is better."""
        return psnr(self.reconstruction, self.round_trip)

    @property
    def inverted(self) -> bool:
        """Whether there is an inversion, or just the image's latent."""
        return self.inversion is not None

    @property
    def reconstructed(self) -> bool:
        """Whether the reconstruction has been computed already."""
        return self.inverted and RECONSTRUCTION in self.__dict__

    def save(self, path: str | Path) -> None:
        """Write everything to one .safetensors file, for `edit(..., image=path)` on another day.

        Raises:
            ConfigError: if the name has another ending, or nothing was inverted.
            SaveError: if it cannot be written.
        """
        from freeprompt.api.saved import save_inverted

        save_inverted(self, path)

    @torch.no_grad()
    def _decode(self, latent: Tensor) -> Image.Image:
        return to_images(self.model.decode(latent))[0]

    def restore_size(self, image: Image.Image) -> Image.Image:
        """Bring a picture of the model's size back to the size of the image."""
        return resize(image, self.picture.size)


def start_noise(
    model: UNetModel,
    size: tuple[int, int],
    seed: int,
    generator: torch.Generator | None,
    latents: Tensor | None,
) -> Tensor:
    """Return the noise of a generated source, (1, channels, height, width), unit variance.

    It is drawn in float32 on the CPU (or where `generator` lives), so that a seed means the same
    picture on every device.

    Raises:
        ConfigError: for a seed out of range, or latents of the wrong shape or not finite.
    """
    shape = model.latent_shape(*size)
    if latents is not None:
        _check_latents(latents, shape)
        return latents.to(model.device, model.dtype)
    if generator is None:
        generator = torch.Generator("cpu").manual_seed(checked_seed(seed))
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return noise.to(model.device, model.dtype)


def checked_seed(seed: Any) -> int:
    """Return a usable seed.

    Raises:
        ConfigError: if it is not a whole number from 0 to 2**63-1.
    """
    try:
        number = -1 if isinstance(seed, bool) else index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise ConfigError(f"The seed must be a whole number from 0 to {MAX_SEED}; got {seed!r}.")
    return number


def _check_latents(latents: object, shape: tuple[int, ...]) -> None:
    if not isinstance(latents, Tensor):
        raise ConfigError(f"latents must be a torch tensor; got {type(latents).__name__}.")
    if tuple(latents.shape) != shape:
        raise ConfigError(
            f"latents must have the shape {shape} for this size and model; got "
            f"{tuple(latents.shape)}."
        )
    if not bool(torch.isfinite(latents).all()):
        raise ConfigError("latents must be finite numbers of unit variance; some are nan or inf.")
