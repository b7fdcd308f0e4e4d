"""Pictures in and out: any image file to RGB, to a tensor, and back to a PNG that names its origin.

Reading is in `freeprompt.picture`. Whatever is written here is written whole or not at all.
"""

import io
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from freeprompt.errors import ImageError, ModelError, SaveError
from freeprompt.picture import MAX_PIXELS, ImageInput, Picture, open_image

__all__ = [
    "MAX_PIXELS",
    "ImageInput",
    "Picture",
    "finite",
    "fit",
    "grid",
    "notice",
    "open_image",
    "png_bytes",
    "psnr",
    "read_png_text",
    "resize",
    "save_png",
    "side_by_side",
    "to_images",
    "to_tensor",
    "write_json",
    "write_whole",
]

_GAP = 8  # pixels around each picture of `side_by_side`
_FONT_SIZE = 16
_LINE = 22


def fit(size: tuple[int, int], *, area: int, multiple: int, shortest: int) -> tuple[int, int]:
    """Choose the size at which a model works on a picture.

    Args:
        size: Width and height of the picture in pixels.
        area: Number of pixels that the model was trained on, e.g. 512 * 512.
        multiple: Both sides become multiples of this, e.g. 8 times the patch size.
        shortest: Least length of the short side in pixels.

    Returns:
        Width and height: least error of the aspect ratio, weighed against 1/4 of that of the area.

    Raises:
        ImageError: if the picture is so long that its short side would be under `shortest`.
    """
    width, height = size
    long = max(size) / min(size)
    if long > area / shortest**2:
        raise ImageError(
            f"The picture is {width} × {height}, an aspect ratio of {long:.1f}:1. Allowed for "
            f"this model: up to {area / shortest**2:.1f}:1. Crop it."
        )
    aspect = width / height
    ideal = math.sqrt(area / aspect) / multiple
    least = math.ceil(shortest / multiple)

    def error(candidate: tuple[int, int]) -> float:
        w, h = candidate
        off_area = math.log(w * h * multiple**2 / area)
        return abs(math.log(w / h / aspect)) + abs(off_area) / 4

    rows = range(max(least, math.floor(ideal * 0.7)), max(least, math.ceil(ideal * 1.4)) + 1)
    columns = [(max(least, math.floor(h * aspect) + extra), h) for h in rows for extra in (0, 1)]
    w, h = min(columns, key=error)
    return w * multiple, h * multiple


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resample a picture to (width, height), antialiased; the same pixels if the size is equal."""
    return image.resize(size, Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Float[Tensor, "1 3 height width"]:
    """Turn a picture into a float32 tensor in [-1, 1], NCHW RGB, on the CPU."""
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 127.5 - 1


def to_images(tensor: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Turn decoded pictures in [-1, 1], any float dtype and device, into 8-bit RGB images.

    Values outside [-1, 1] are clamped.

    Raises:
        ModelError: if a value is NaN or infinite, as a half-precision decoder can produce.
    """
    values = tensor.detach().to("cpu", torch.float32)
    if not bool(values.isfinite().all()):
        raise ModelError(
            "The decoder produced NaN or infinite values"
            f" (its output has dtype {str(tensor.dtype).removeprefix('torch.')}). A picture needs "
            "finite values: use dtype float32, or bfloat16."
        )
    pixels = ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(p.permute(1, 2, 0).contiguous().numpy()) for p in pixels]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size: dB on 8-bit RGB, inf when equal.

    Raises:
        ImageError: if the sizes differ.
    """
    if a.size != b.size:
        raise ImageError(f"The pictures have sizes {a.size} and {b.size}. Resize one of them.")
    first, second = (np.asarray(i.convert("RGB"), dtype=np.float64) for i in (a, b))
    error = float(np.mean((first - second) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def save_png(image: Image.Image, path: str | os.PathLike[str], text: dict[str, str]) -> None:
    """Write a PNG that carries `text`; the same picture and text give the same bytes.

    The folder is made if it does not exist. A reader never sees half a file.

    Args:
        image: Picture of any mode that PNG knows; normally RGB.
        path: File to write; an existing one is replaced.
        text: Keyword (1 to 79 Latin-1 characters) to text (any Unicode), stored as iTXt.

    Raises:
        SaveError: if it cannot be written; an existing file is then as it was.
    """
    try:
        content = png_bytes(image, text)
    except (OSError, ValueError) as error:
        raise _unsaved(path, error) from error
    write_whole(path, content)


def png_bytes(image: Image.Image, text: dict[str, str]) -> bytes:
    """Return the PNG that `save_png` writes.

    Raises:
        OSError: for a mode that PNG does not know.
        ValueError: for a keyword that PNG does not allow.
    """
    info = PngImagePlugin.PngInfo()
    buffer = io.BytesIO()
    for key, value in text.items():
        info.add_itxt(key, value.encode("utf-8", "replace").decode())
    image.save(buffer, "PNG", pnginfo=info, exif=b"", icc_profile=None)
    return buffer.getvalue()


def read_png_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the text chunks of a PNG, keyword to text; empty if it has none.

    Raises:
        ImageError: if the file is missing, damaged or not a PNG.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # chunks may follow the pixels
            found: dict[str, str] = getattr(image, "text", {})
            return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, SyntaxError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise ImageError(
            f"The text of '{os.fspath(path)}' could not be read ({reason}). Allowed: a complete "
            "PNG file. Name one that freeprompt has saved."
        ) from error


def write_json(path: str | os.PathLike[str], data: object, *, sync: bool = False) -> None:
    """Write `data` as indented UTF-8 JSON, whole or not at all; infinite numbers become "inf".

    The folder is made if it does not exist.

    Args:
        path: File to write; an existing one is replaced.
        data: What JSON can hold.
        sync: As `write_whole` has it.

    Raises:
        SaveError: if it cannot be written, or holds something that JSON cannot.
    """
    try:
        text = json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _unsaved(path, error) from error
    write_whole(path, (text + "\n").encode("utf-8", "replace"), sync=sync)


def finite(data: Any) -> Any:
    """Replace NaN and infinities, which JSON does not know, by their names."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def write_whole(path: str | os.PathLike[str], content: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all; the folder is made if it does not exist.

    Args:
        path: File to write; an existing one is replaced.
        content: All of it.
        sync: Whether to wait until it is on the disk, so that it is whole after a power cut too.

    Raises:
        SaveError: if it cannot be written; an existing file is then as it was.
    """
    target = Path(path)
    draft = target.parent / f".{uuid4().hex}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        if sync:
            with draft.open("r+b") as file:
                os.fsync(file.fileno())
        draft.replace(target)
    except (OSError, ValueError) as error:
        raise _unsaved(path, error) from error
    finally:
        with suppress(OSError, ValueError):
            draft.unlink()


def _unsaved(path: str | os.PathLike[str], error: Exception) -> SaveError:
    reason = getattr(error, "strerror", None) or error
    return SaveError(
        f"'{os.fspath(path)}' could not be written ({reason}). Allowed: a file in a folder that "
        "you may write to, on a disk with free space. Choose another place."
    )


def side_by_side(
    columns: Sequence[tuple[str, Image.Image]],
    path: str | os.PathLike[str] | None = None,
    *,
    height: int | None = None,
) -> Image.Image:
    """Set pictures in a row on white, each with its caption below, wrapped to its width.

    Args:
        columns: Caption and picture of each column, from left to right.
        path: Where to write the row as PNG; None to write nothing.
        height: Height of every picture in pixels. Default: the tallest one, at least 256.

    Returns:
        The row: RGB.

    Raises:
        ImageError: if there is no column.
        SaveError: if it cannot be written.
    """
    if not columns:
        raise ImageError("There is no picture to set side by side. Give at least one column.")
    tall = max(256, *(p.height for _, p in columns)) if height is None else height
    cells = [_cell(caption, picture, tall) for caption, picture in columns]
    width = sum(cell.width for cell in cells) + _GAP * (len(cells) + 1)
    row = Image.new("RGB", (width, max(cell.height for cell in cells) + 2 * _GAP), "white")
    x = _GAP
    for cell in cells:
        row.paste(cell, (x, _GAP))
        x += cell.width + _GAP
    if path is not None:
        save_png(row, path, {})
    return row


def grid(
    cells: Sequence[tuple[str, Image.Image]], *, columns: int, height: int = 256
) -> Image.Image:
    """Set pictures in rows on white, each with its caption below.

    Args:
        cells: Caption and picture of each cell, row by row.
        columns: Cells in a row, at least 1.
        height: Height of every picture in pixels.

    Returns:
        The grid: RGB.

    Raises:
        ImageError: if there is no cell.
    """
    rows = [
        side_by_side(cells[start : start + columns], height=height)
        for start in range(0, max(len(cells), 1), columns)
    ]
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet


def notice(text: str, size: tuple[int, int]) -> Image.Image:
    """Return a grey picture that says something, where there is no other picture to show."""
    picture = Image.new("RGB", size, "#eeeeee")
    font = ImageFont.load_default(size=_FONT_SIZE - 3)
    draw = ImageDraw.Draw(picture)
    lines = _wrap(text, size[0] - 2 * _GAP, font.getlength)
    fitting = (size[1] - 2 * _GAP) // _LINE
    for number, line in enumerate(lines[:fitting]):
        draw.text((_GAP, _GAP + number * _LINE), line, "#444444", font)
    return picture


def _cell(caption: str, picture: Image.Image, height: int) -> Image.Image:
    scaled = resize(
        picture.convert("RGB"), (max(1, round(picture.width * height / picture.height)), height)
    )
    font = ImageFont.load_default(size=_FONT_SIZE)
    width = max(scaled.width, 8 * _FONT_SIZE)
    lines = _wrap(caption, width, font.getlength)
    cell = Image.new("RGB", (width, height + _GAP + len(lines) * _LINE), "white")
    cell.paste(scaled, ((width - scaled.width) // 2, 0))
    draw = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        draw.text((0, height + _GAP + number * _LINE), line, "black", font)
    return cell


def _wrap(text: str, width: int, length: Callable[[str], float]) -> list[str]:
    """Break a text into lines of at most `width` pixels, inside a word only if it must be."""
    return [line for part in text.splitlines() for line in _wrap_line(part, width, length)] or [""]


def _wrap_line(text: str, width: int, length: Callable[[str], float]) -> list[str]:
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if length(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if length(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
