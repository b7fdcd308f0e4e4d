"""Pictures of a subject as latents, and pictures of others of its kind."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from freeprompt.core import TARGET, denoise
from freeprompt.core.loop import Callback
from freeprompt.errors import ConfigError, FreepromptWarning
from freeprompt.images import resize, to_tensor
from freeprompt.models import UNetModel
from freeprompt.picture import ImageInput, Picture, open_image

ENOUGH = 3
CLASS_STEPS, CLASS_GUIDANCE = 25, 7.5
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}

Pictures = str | Path | Sequence[ImageInput]


def opened(pictures: Pictures, what: str = "the subject") -> list[Picture]:
    """Read pictures: those of a folder in the order of their names, or those of a list.

    Args:
        pictures: A folder, or images.
        what: What they show, for messages.

    Raises:
        ConfigError: if there are none.
        ImageError: if one cannot be read; the message names it.

    Warns:
        FreepromptWarning: if there are fewer than three.
    """
    found = [open_image(one) for one in _listed(pictures)]
    if not found:
        raise ConfigError(
            f"There are no pictures of {what} in {str(pictures)!r}. Give a folder with at least "
            f"{ENOUGH} of them ({', '.join(sorted(s[1:] for s in SUFFIXES))})."
        )
    if len(found) < ENOUGH:
        warnings.warn(
            f"There are only {len(found)} pictures of {what}. With fewer than {ENOUGH}, the "
            "background and the pose are learnt as part of it; 5 in different places are usual.",
            FreepromptWarning,
            stacklevel=3,
        )
    return found


def _listed(pictures: Pictures) -> Sequence[ImageInput]:
    if not isinstance(pictures, str | Path):
        return pictures
    folder = Path(pictures)
    if not folder.is_dir():
        raise ConfigError(
            f"{str(pictures)!r} is no folder. Give the folder that holds the pictures, and "
            "nothing but them."
        )
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


@torch.no_grad()
def latents(model: UNetModel, pictures: Sequence[Picture], *, mirror: bool = False) -> list[Tensor]:
    """Encode the central square of each picture at the model's own size.

    Args:
        model: The model.
        pictures: The pictures.
        mirror: Whether to add each one mirrored.

    Returns:
        Scaled latents, each (1, channels, side, side).
    """
    squares = [_square(picture.image, model.native_size) for picture in pictures]
    if mirror:
        squares += [one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in squares]
    return [model.encode_image(to_tensor(one)) for one in squares]


def _square(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    left, top = ((length - shorter) // 2 for length in image.size)
    return resize(image.crop((left, top, left + shorter, top + shorter)), (side, side))


@torch.no_grad()
def drawn(
    model: UNetModel, prompt: str, count: int, seed: int, callback: Callback | None = None
) -> list[Tensor]:
    """Draw pictures of a prompt with the model as it is; returns their latents.

    Costs two sample-forwards a step and picture, at 25 steps.
    """
    text, null = model.encode_text([prompt]), model.encode_text([""])
    shape = model.latent_shape(model.native_size, model.native_size)
    found = []
    for i in range(count):
        generator = torch.Generator("cpu").manual_seed(seed + i)
        noise = torch.randn(shape, generator=generator).to(model.device, model.dtype)
        done = denoise(
            model,
            model.schedule(CLASS_STEPS),
            {"target": noise},
            text={"target": text},
            null=null,
            rows=TARGET,
            guidance=CLASS_GUIDANCE,
            phase="source",
            callback=callback,
        )
        found.append(done.state["target"])
    return found
