"""Any image in, an upright 8-bit sRGB picture out, with a note for each thing that was changed."""

import hashlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from freeprompt.errors import ImageError

__all__ = ["MAX_PIXELS", "ImageInput", "Picture", "open_image"]

MAX_PIXELS = 100_000_000

Stream = io.BufferedReader | io.BytesIO
Array = np.ndarray[Any, Any]
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow draws these with an outside program, which a file from elsewhere must not be able to start.
_VECTOR_FORMATS = {"EPS", "WMF"}
_FORMATS = "PNG, JPEG, WebP, TIFF, GIF, BMP and the other raster formats that Pillow reads"
_DECODING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as freeprompt works on it, and where it came from.

    Attributes:
        image: The picture: 8-bit RGB, upright, in sRGB, without transparency.
        name: The file name as the user gave it; None for an image from memory.
        sha256: Hash of the file's bytes, hexadecimal; of the size and pixels if from memory.
        notes: What was changed on the way in, one sentence each.
    """

    image: Image.Image
    name: str | None
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array | Picture


def open_image(image: ImageInput) -> Picture:
    """Read any image and turn it into an upright 8-bit sRGB picture.

    Args:
        image: A file name, the bytes of a file, a PIL image (never modified), a numpy array
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or float in [0, 1];
            or a `Picture`, which is returned as it is.

    Returns:
        The picture, with a note for each thing that was changed.

    Raises:
        ImageError: if it is missing, not an image, damaged, empty, or above `MAX_PIXELS`.
    """
    match image:
        case Picture():
            return image
        case Image.Image():
            return _from_memory(image, [])
        case np.ndarray():
            notes: list[str] = []
            return _from_memory(_from_array(image, notes), notes)
        case bytes() | bytearray() | memoryview():
            return _decode(io.BytesIO(image), None)
        case str() | os.PathLike():
            with _open_file(os.fspath(image)) as stream:
                return _decode(stream, os.fspath(image))
        case _:
            raise ImageError(
                f"An image cannot be read from {type(image).__name__}. Allowed: a file "
                "name, the bytes of a file, a PIL image or a numpy array."
            )


def _open_file(name: str) -> Stream:
    path = Path(name)
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        remedy = "Download it first." if "://" in name else "Check the spelling and the folder."
        raise ImageError(f"There is no file '{name}'. Allowed: an image file. {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"'{name}' could not be read ({reason}). Allowed: a file that you may read. "
            "Check its permissions."
        ) from error
    found = "a folder" if stat.S_ISDIR(kind) else "a device or a pipe"
    raise ImageError(f"'{name}' is {found}. Allowed: an image file. Name one file.")


def _decode(stream: Stream, name: str | None) -> Picture:
    shown = "The image" if name is None else f"'{name}'"
    notes: list[str] = []
    if stream.seek(0, os.SEEK_END) == 0:
        raise ImageError(f"{shown} is empty (0 bytes). It must be an image. Get a new copy of it.")
    stream.seek(0)
    with _quiet():
        try:
            opened = Image.open(stream)
        except Image.DecompressionBombError as error:
            raise _too_large(shown, _first_number(str(error))) from None
        except Exception as error:
            raise ImageError(
                f"{shown} is not an image that can be read. Allowed: {_FORMATS}. "
                "Export it as PNG or JPEG first (HEIC and SVG files too)."
            ) from error
        with opened:
            rgb = _upright_rgb(opened, shown, notes)
            if (frames := _frames(opened)) > 1:
                notes.append(f"first of {frames} frames used")
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Picture(rgb, name, digest, tuple(notes))


def _frames(image: Image.Image) -> int:
    if image.format == "MPO":  # a photograph with its preview, not an animation
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a later frame is damaged; it is not used anyway
        return 1


def _from_memory(image: Image.Image, notes: list[str]) -> Picture:
    with _quiet():
        rgb = _upright_rgb(image, "The image", notes)
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes())
    return Picture(rgb, None, digest.hexdigest(), tuple(notes))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings from the user; the filters are global, so one thread at a time."""
    with _DECODING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_number(text: str) -> int:
    return int(re.findall(r"\d+", text)[0])


def _too_large(shown: str, pixels: int) -> ImageError:
    return ImageError(
        f"{shown} has {pixels / 1e6:.0f} megapixels. Allowed: at most {MAX_PIXELS // 10**6} "
        "megapixels. Reduce it first; models work on about 0.3 to 1."
    )


def _check_header(image: Image.Image, shown: str) -> None:
    width, height = image.size
    if image.format in _VECTOR_FORMATS:
        raise ImageError(f"{shown} is a vector drawing ({image.format}). Export it as PNG first.")
    if width * height == 0:
        raise ImageError(f"{shown} has no pixels ({width} × {height}). Give at least 1 × 1.")
    if width * height > MAX_PIXELS:
        raise _too_large(shown, width * height)


def _upright_rgb(image: Image.Image, shown: str, notes: list[str]) -> Image.Image:
    _check_header(image, shown)
    declared = _orientation(image)
    try:
        image.load()
    except Exception as error:
        raise ImageError(
            f"{shown} is damaged or cut short ({error}). It must be a complete "
            f"{image.format or 'image'}. Copy or download it again."
        ) from error
    remaining = _orientation(image)  # TIFF files are turned by Pillow itself
    rgb = _to_rgb(image, shown, notes)
    if declared in _TRANSPOSE:
        notes.append(f"EXIF orientation {declared} was applied")
    return rgb.transpose(_TRANSPOSE[remaining]) if remaining in _TRANSPOSE else rgb


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata do not make the picture unusable
        return 1


def _to_rgb(image: Image.Image, shown: str, notes: list[str]) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_reduce(np.asarray(image), image.mode, shown, notes))
    if image.mode in {"1", "P", "PA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert(_plain_mode(image))
    if image.mode not in {"LA", "RGBA"}:
        return _to_srgb(image, profile, notes)
    alpha = image.getchannel("A")
    colour = _to_srgb(image.convert(image.mode.removesuffix("A")), profile, notes)
    if alpha.getextrema() == (255, 255):
        return colour
    notes.append("transparent pixels were composited on white")
    return Image.composite(colour, Image.new("RGB", image.size, "white"), alpha)


def _plain_mode(image: Image.Image) -> str:
    if image.mode == "La":
        return "LA"
    if image.mode in {"PA", "RGBa"} or "transparency" in image.info:
        return "RGBA"
    return "L" if image.mode == "1" else "RGB"


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert to RGB through the embedded colour profile, or plainly if there is no usable one."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = ImageCms.getProfileDescription(source).strip()
            if "srgb" not in name.lower():
                target = ImageCms.createProfile("sRGB")
                rgb = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                notes.append(f"colours were converted from {name!r} to sRGB")
                return rgb or image.convert("RGB")
        except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
            pass  # an unreadable profile is as good as none
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _reduce(values: Array, mode: str, shown: str, notes: list[str]) -> Array:
    """Bring 16-bit, 32-bit and float grey values to 0..255 without clipping."""
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ImageError(f"{shown} has NaN or infinite pixels. Allowed: finite values.")
    low, high = float(numbers.min()), float(numbers.max())
    if mode.startswith("I;16"):
        peaks = [65535.0]
    else:
        peaks = [1.0, 255.0, 65535.0] if mode == "F" else [255.0, 65535.0]
    peak = next((p for p in peaks if low >= 0 and high <= p), None)
    if peak is None:
        notes.append(f"values {low:g} to {high:g} were stretched to 0 to 255")
        peak = (high - low) or 1.0
    else:
        low = 0.0
        kind = "16-bit image" if peak == 65535 else f"image with values in 0 to {peak:g}"
        notes.append(f"{kind} reduced to 8 bits")
    return np.round((numbers - low) * (255 / peak)).astype(np.uint8)


def _from_array(array: Array, notes: list[str]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(
            f"The array has shape {array.shape}. Allowed: (height, width), or (height, width, "
            "channels) with 1, 3 or 4 channels. Move the channels last: array.transpose(1, 2, 0)."
        )
    if array.size == 0:
        raise ImageError(f"The array has no pixels (shape {array.shape}). Give at least 1 × 1.")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array, notes)))


def _eight_bits(array: Array, notes: list[str]) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _reduce(array, "I;16", "The array", notes)
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating) and low >= 0 and high <= 1:  # False for NaN
        return np.round(array.astype(np.float64) * 255).astype(np.uint8)
    raise ImageError(
        f"The array has dtype {array.dtype} and values from {low:g} to {high:g}. Allowed: uint8, "
        "uint16, bool, or float in [0, 1]. Scale it, or convert it with array.astype('uint8')."
    )
