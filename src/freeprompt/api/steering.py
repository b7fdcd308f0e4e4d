"""What steers an edit beside prompts: control images, and the room of an inpainting model."""

import copy
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freeprompt.api.mask import bright_pixels
from freeprompt.api.sizes import working_size
from freeprompt.api.source import InvertedImage
from freeprompt.errors import ConfigError
from freeprompt.images import resize, to_tensor
from freeprompt.models import UNetModel
from freeprompt.models.hints import Hint, Hints, no_image
from freeprompt.picture import ImageInput, open_image

if TYPE_CHECKING:
    from freeprompt.api.editor import Editor

ControlImages = ImageInput | Sequence[ImageInput]
Weights = float | Sequence[float]
Share = tuple[float, float]
Shares = Share | Sequence[Share]


def steered(
    editor: "Editor",
    steps: int,
    control: tuple[ControlImages | None, Weights, Shares],
    image: Any = None,
    mask: ImageInput | None = None,
) -> "Editor":
    """Return the editor whose model sees the control images of one edit; itself if there are none.

    Args:
        editor: The editor.
        steps: Steps of the edit.
        control: `control_image`, `control_weight` and `control_window` of `Editor.edit`.
        image: The image to edit, if it is a real one.
        mask: Where it may change.

    Raises:
        ConfigError: for control images without a network to read them, or the other way round, or
            a number out of range; for an inpainting model without a mask or an image.
        ImageError: for a file that is no usable image.
    """
    model, (given, weight, window) = editor.model, control
    hints = None
    if given is not None or model.networks:
        hints = _hints(model, steps, given, weight, window)
    else:
        _check_unused(weight, window)
    room = _room(model, image, mask) if model.takes == "room" else None
    if hints is None and room is None:
        return editor
    made = copy.copy(editor)
    made.model = model.seeing(hints=hints, room=room)
    return made


def _check_unused(weight: Weights, window: Shares) -> None:
    if weight != 1.0 or window not in ((0.0, 1.0), [0.0, 1.0]):
        raise ConfigError(
            "control_weight and control_window (--control-weight, --control-window) say how a "
            "control image acts, and there is none. Give control_image (--control), or leave them "
            "out."
        )


def _hints(
    model: UNetModel, steps: int, images: ControlImages | None, weight: Weights, window: Shares
) -> Hints:
    networks = model.networks
    if images is None:
        raise no_image(model.name, networks[0])
    pictures = [open_image(one) for one in _several(images)]
    if not networks:
        raise ConfigError(
            f"There is a control image, and {model.name!r} was loaded without a network to read "
            "it. Load one with controlnet= or adapter= (--controlnet, --adapter)."
        )
    if len(pictures) != len(networks):
        names = ", ".join(network.title for network in networks)
        raise ConfigError(
            f"There are {len(pictures)} control images for {len(networks)} networks ({names}). "
            "Give one for each, in that order, with control_image= (--control)."
        )
    weights = _each("control_weight", weight, len(networks), _weight)
    windows = _each("control_window", window, len(networks), _share)
    hints = tuple(
        Hint(
            network=network,
            image=picture.image,
            told={"image": picture.name, "sha256": picture.sha256},
            weight=strength,
            window=share,
        )
        for network, picture, strength, share in zip(
            networks, pictures, weights, windows, strict=True
        )
    )
    return Hints(hints=hints, timesteps=model.schedule(steps).timesteps, unit=model.granularity)


def _several(images: ControlImages) -> Sequence[Any]:
    return images if isinstance(images, list | tuple) else [images]


def _each(name: str, given: Any, count: int, read: Callable[[str, Any], Any]) -> list[Any]:
    """Return one value a network: those given, or the one given for all."""
    many = isinstance(given, list | tuple) and not (
        read is _share and len(given) == 2 and not isinstance(given[0], list | tuple)
    )
    values = list(given) if many else [given] * count
    if len(values) != count:
        raise ConfigError(
            f"{name} has {len(values)} values for {count} control images. Give one, or one for "
            "each."
        )
    return [read(name, value) for value in values]


def _weight(name: str, value: Any) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConfigError(f"{name} must be a number; got {value!r}. 1 is usual, 0 switches it off.")
    return float(value)


def _share(name: str, value: Any) -> Share:
    try:
        start, end = (_weight(name, edge) for edge in value)
    except (TypeError, ValueError):
        start, end = 1.0, 0.0
    if not 0 <= start < end <= 1:
        raise ConfigError(
            f"{name} must be a share of the steps, (from, to) with 0 <= from < to <= 1; got "
            f"{value!r}. (0, 1) is all of them."
        )
    return start, end


def _room(model: UNetModel, image: Any, mask: ImageInput | None) -> Tensor:
    """Return what an inpainting network sees: where it may paint, and the picture without that."""
    if image is None or mask is None or isinstance(image, InvertedImage):
        raise ConfigError(
            f"{model.name!r} is an inpainting model: it must be told where it may paint. Give a "
            "real image itself (image=, --image) and a mask (mask=, --mask; white where it may "
            "change), with a method that uses one (fpe-protect, diffedit)."
        )
    picture, painted = open_image(image), open_image(mask)
    size = working_size(model, picture)
    free = bright_pixels(painted, picture.size)
    free = F.interpolate(free, (size[1], size[0]))
    pixels = to_tensor(resize(picture.image, size)) * (free < 0.5)
    seen = model.encode_image(pixels)
    return torch.cat([F.interpolate(free, seen.shape[-2:]).to(seen), seen], 1)
