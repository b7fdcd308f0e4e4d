"""The judge: reads what an image of Emoji World shows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from freeprompt.errors import ImageError, ModelError
from freeprompt.judge.labels import HEADS
from freeprompt.judge.network import JudgeNetwork

FORMAT = 1


def shipped_weights() -> Path:
    """Where the weights that come with the package are."""
    return Path(str(resources.files("freeprompt.judge"))) / "weights" / "judge.safetensors"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the judge sees in one image.

    Attributes:
        subject: Name of the thing or animal.
        color: Name of its colour, or None for an animal.
        place: The place, or None for a plain background.
        style: The visible style.
        probabilities: By attribute, the probability of every answer; each sums to 1.
        mask: Bool, (height, width) of the image: where the subject is.
        confidence: By attribute, the probability of the answer given.
    """

    subject: str
    color: str | None
    place: str | None
    style: str
    probabilities: dict[str, dict[str | None, float]]
    mask: npt.NDArray[np.bool_]
    confidence: dict[str, float]


class Judge:
    """A trained judge.

    Args:
        network: Its network.
        resolution: Side in pixels at which the network looks; other images are resized.
        channels: The network's widths, kept for `save`.
        temperatures: By attribute, what the logits are divided by.
    """

    def __init__(
        self,
        network: JudgeNetwork,
        resolution: int,
        channels: tuple[int, int, int, int],
        temperatures: dict[str, float],
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.resolution, self.channels, self.temperatures = resolution, channels, temperatures

    @classmethod
    def load(cls, path: Path | None = None, device: str | torch.device = "cpu") -> Self:
        """Load a judge.

        Args:
            path: Weights file; None takes the one that comes with the package.
            device: Where it shall compute.

        Raises:
            ModelError: if the file is missing, is not a judge's, or was trained for other words.
        """
        path = shipped_weights() if path is None else path
        try:
            with safe_open(path, "pt") as file:
                config = json.loads((file.metadata() or {})["config"])
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(f"{path} is not a judge's weights file: {error}") from error
        _check(config, path)
        channels = tuple(config["channels"])
        network = JudgeNetwork(channels)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"{path} does not fit the judge's network: {error}") from error
        return cls(network.to(device), config["resolution"], channels, config["temperatures"])

    def save(self, path: Path) -> None:
        """Write the weights in half precision, with all that `load` needs."""
        config = {
            "format": FORMAT,
            "resolution": self.resolution,
            "channels": self.channels,
            "temperatures": self.temperatures,
            "heads": HEADS,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, path, metadata={"config": json.dumps(config)})
        path.chmod(0o644)  # safetensors writes for the owner alone

    def read(
        self, images: UInt8[np.ndarray, "count height width 3"] | Sequence[Image.Image]
    ) -> list[Reading]:
        """Read images.

        Args:
            images: Array (count, height, width, 3) in 0..255, or PIL images of any sizes.

        Returns:
            One reading per image, in order.

        Raises:
            ImageError: if the array has another shape or type.
        """
        arrays = _as_arrays(images)
        readings: list[Reading] = []
        for start in range(0, len(arrays), 64):
            readings += self._read_batch(arrays[start : start + 64])
        return readings

    @torch.no_grad()
    def logits(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute calibrated logits by attribute, and mask logits, of NCHW images in [-1, 1]."""
        heads, mask = self.network(images)
        return {name: value / self.temperatures[name] for name, value in heads.items()}, mask

    def _read_batch(self, arrays: list[npt.NDArray[np.uint8]]) -> list[Reading]:
        """Read at most 64 images."""
        device = next(self.network.parameters()).device
        inputs = torch.stack([self._prepare(array) for array in arrays]).to(device)
        heads, masks = self.logits(inputs)
        chances = {name: value.softmax(-1).cpu().numpy() for name, value in heads.items()}
        return [
            _reading(
                {name: value[i] for name, value in chances.items()},
                _enlarge(masks[i].cpu(), arrays[i].shape[:2]),
            )
            for i in range(len(arrays))
        ]

    def _prepare(self, array: npt.NDArray[np.uint8]) -> Tensor:
        """Bring one image to the network's size and range."""
        image = torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 127.5 - 1
        if image.shape[1:] == (self.resolution, self.resolution):
            return image
        size = (self.resolution, self.resolution)
        return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _check(config: dict[str, Any], path: Path) -> None:
    """Raise unless the file's answers are those of today's world."""
    heads = {name: tuple(values) for name, values in config.get("heads", {}).items()}
    if config.get("format") != FORMAT or heads != HEADS:
        raise ModelError(
            f"{path} was trained for other words than those of freeprompt.world. "
            "Train it again with `freeprompt train judge`."
        )


def _as_arrays(
    images: npt.NDArray[np.uint8] | Sequence[Image.Image],
) -> list[npt.NDArray[np.uint8]]:
    """Turn what `Judge.read` takes into a list of (height, width, 3) arrays."""
    if not isinstance(images, np.ndarray):
        return [np.array(image.convert("RGB")) for image in images]
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ImageError(
            f"The judge reads uint8 arrays (count, height, width, 3), not {images.dtype} "
            f"{images.shape}."
        )
    return list(images)


def _enlarge(mask: Tensor, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Bring mask logits to the image's size and decide."""
    if tuple(mask.shape) != tuple(size):
        mask = functional.interpolate(
            mask[None, None], tuple(size), mode="bilinear", antialias=True
        )[0, 0]
    decided: npt.NDArray[np.bool_] = (mask > 0).numpy()
    return decided


def _reading(chances: dict[str, npt.NDArray[np.float32]], mask: npt.NDArray[np.bool_]) -> Reading:
    """Put one image's probabilities into words."""
    answers = {name: HEADS[name][int(values.argmax())] for name, values in chances.items()}
    subject, style = answers["subject"], answers["style"]
    assert subject is not None and style is not None  # these two heads have no None
    return Reading(
        subject=subject,
        color=answers["color"],
        place=answers["place"],
        style=style,
        probabilities={
            name: dict(zip(HEADS[name], map(float, values), strict=True))
            for name, values in chances.items()
        },
        mask=mask,
        confidence={name: float(values.max()) for name, values in chances.items()},
    )
