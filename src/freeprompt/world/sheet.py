"""Contact sheets: many scenes in one picture, each over its caption."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from freeprompt.errors import ConfigError
from freeprompt.world.scene import Scene

_LINE, _MARGIN = 12, 4


def contact_sheet(scenes: Sequence[Scene], *, size: int = 128, columns: int = 8) -> Image.Image:
    """Render scenes into a grid with captions.

    Args:
        scenes: At least one scene.
        size: Height and width of each picture in pixels.
        columns: Pictures in a row, 1 or more.

    Returns:
        RGB picture.

    Raises:
        ConfigError: if there is no scene or no column.
    """
    if not scenes or columns < 1:
        raise ConfigError("A contact sheet needs at least one scene and one column.")
    font = ImageFont.load_default(10)
    texts = [wrap(scene.caption(), max(8, size // 5)) for scene in scenes]
    wide, tall = size + _MARGIN, size + _MARGIN + _LINE * max(map(len, texts))
    columns = min(columns, len(scenes))
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * wide + _MARGIN, rows * tall + _MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, (scene, lines) in enumerate(zip(scenes, texts, strict=True)):
        left, top = _MARGIN + number % columns * wide, _MARGIN + number // columns * tall
        sheet.paste(Image.fromarray(scene.render(size).image), (left, top))
        for row, line in enumerate(lines):
            draw.text((left, top + size + row * _LINE), line, fill=(40, 40, 40), font=font)
    return sheet
