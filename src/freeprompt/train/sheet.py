"""Picture sheets: rows of images with captions, for looking at a run."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

_CAPTION_HEIGHT = 34


def write_sheet(
    path: Path,
    images: UInt8[np.ndarray, "count height width rgb"],
    columns: int,
    captions: Sequence[str] = (),
    zoom: int = 2,
) -> None:
    """Write images in rows to a PNG.

    Args:
        path: File to write; its folder is made.
        images: Images in 0..255, left to right, top to bottom.
        columns: Images in a row.
        captions: One text under each image, or nothing.
        zoom: Every pixel becomes zoom x zoom.
    """
    side = images.shape[1] * zoom
    height = side + (_CAPTION_HEIGHT if captions else 0)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * side, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        corner = (index % columns * side, index // columns * height)
        big = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(big, corner)
        if captions:
            text = textwrap.fill(captions[index], max(8, side // 6))
            draw.multiline_text((corner[0] + 2, corner[1] + side), text, fill="black", spacing=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
