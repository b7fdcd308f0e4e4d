"""PIE-Bench: 700 images with source and target prompts and a mask of what is edited."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from freeprompt.bench.datasets.files import Record, read_json, records
from freeprompt.bench.items import Dataset, FileItem
from freeprompt.metrics import Region

SIDE = 512
"""Height and width of every mask in the file."""

TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change color",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}

TRAPS = {
    "border-mask": "The outermost rows and columns count as edited, as in the published decoder.",
    "markers": "The brackets around edited words stay in the prompts that models and CLIP read.",
}
"""Faults of published evaluations that can be repeated, to compare with their tables. Others are
settings of [metrics]: `ways = ["pie"]` and `ssim = "reflected"`."""


@dataclass(frozen=True, kw_only=True)
class PieItem(FileItem):
    """An item of PIE-Bench.

    Attributes:
        runs: The mask of what is edited: start and length of every run of set pixels, row by row.
        border: Whether the outermost rows and columns are set as well.
        blend_words: As the file names them.
    """

    runs: tuple[int, ...]
    border: bool = False
    blend_words: tuple[str, ...] = ()

    def background(self, size: tuple[int, int]) -> Region:
        mask = decode(self.runs, border=self.border)
        scaled = Image.fromarray(~mask).resize(size, Image.Resampling.NEAREST)
        return np.asarray(scaled, bool)


def decode(runs: Sequence[int], *, border: bool = False) -> Region:
    """Decode a mask.

    Args:
        runs: Start and length of every run, counted row by row; a run past the end is cut.
        border: Whether to set the outermost rows and columns, as the published decoder does.

    Returns:
        Bool, (512, 512): what is edited.
    """
    flat = np.zeros(SIDE * SIDE, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(SIDE, SIDE)
    if border:
        mask[[0, -1]] = True
        mask[:, [0, -1]] = True
    return mask


def load_pie(path: Path, traps: Sequence[str] = ()) -> Dataset:
    """Read PIE-Bench.

    Args:
        path: Folder with `mapping_file.json` and `annotation_images`.
        traps: Of `TRAPS`.

    Raises:
        ConfigError: naming file and row.
    """
    file = path / "mapping_file.json"
    items = tuple(_item(path, row, traps) for row in records(file, read_json(file)))
    notes = [f"repeated on purpose: {TRAPS[name]}" for name in traps]
    full = sum(item.background((SIDE, SIDE)).sum() == 0 for item in items)
    if full:
        notes.append(f"{full} masks cover the whole picture: no background measures there")
    return Dataset(name="PIE-Bench", items=items, notes=tuple(notes))


def _item(folder: Path, row: Record, traps: Sequence[str]) -> PieItem:
    kind = row.text("editing_type_id")
    if kind not in TYPES:
        raise row.fault(f"'editing_type_id' must be 0 to 9; it is {kind!r}")
    source, target = row.text("original_prompt"), row.text("editing_prompt")
    if "markers" not in traps:
        source, target = _unmarked(source), _unmarked(target)
    return PieItem(
        id=row.name,
        cell=TYPES[kind],
        track="real",
        source=source,
        target=target,
        path=row.image([folder / "annotation_images", folder], row.text("image_path")),
        runs=_runs(row),
        border="border-mask" in traps,
        blend_words=tuple(row.text("blended_word", default="").split()),
    )


def _unmarked(prompt: str) -> str:
    """Take the brackets around edited words away."""
    return " ".join(prompt.replace("[", "").replace("]", "").split())


def _runs(row: Record) -> tuple[int, ...]:
    runs = row.value(list, "mask")
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in runs)
    if len(runs) % 2 or not whole or any(start >= SIDE * SIDE for start in runs[::2]):
        raise row.fault("'mask' must be starts and lengths of runs within 512 x 512 pixels")
    return tuple(runs)
