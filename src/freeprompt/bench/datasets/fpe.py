"""The four data sets of the FPE paper.

Their files spell the key of the source prompt `soure_prompt`; both spellings are read.
"""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

from freeprompt.bench.datasets.files import Record, read_json, records
from freeprompt.bench.items import Dataset, FileItem, Item
from freeprompt.world import COLORS

SOURCE, TARGET = ("source_prompt", "soure_prompt"), ("edit_prompt", "target_prompt")
FOLDERS = ("", "images", "car_ims", "val", "ILSVRC2012_val")


def load_car_fake(path: Path | None = None) -> Dataset:
    """Make Car-fake-edit: every ordered pair of the paper's 28 colours, 756 in all.

    The prompts are the published ones to the letter, "a orange car" included. The seed of each
    source is its number; the paper says nothing of seeds.
    """
    items = tuple(
        Item(
            id=f"{source}-{target}",
            cell="color",
            track="generated",
            source=f"a {source} car",
            target=f"a {target} car",
            seed=number,
        )
        for number, (source, target) in enumerate(permutations(COLORS, 2))
    )
    return Dataset(name="Car-fake-edit", items=items)


def load_car_real(path: Path) -> Dataset:
    """Read Car-real-edit.

    Raises:
        ConfigError: naming file and row.
    """
    return Dataset(name="Car-real-edit", items=tuple(_real(path, "Car_real_edit.json", "color")))


def load_imagenet_real(path: Path) -> Dataset:
    """Read ImageNet-real-edit.

    Raises:
        ConfigError: naming file and row.
    """
    items = tuple(_real(path, "ImageNet_real_edit.json", "object"))
    return Dataset(name="ImageNet-real-edit", items=items)


def load_imagenet_fake(path: Path) -> Dataset:
    """Read ImageNet-fake-edit; the seed of each source is its number.

    Raises:
        ConfigError: naming file and row.
    """
    file = path / "ImageNet_fake_edit.json"
    items = tuple(
        Item(
            id=row.name,
            cell="object",
            track="generated",
            source=row.text(*SOURCE),
            target=row.text(*TARGET),
            seed=number,
        )
        for number, row in enumerate(records(file, read_json(file)))
    )
    pairs = {(item.source, item.target) for item in items}
    repeated = len(items) - len(pairs)
    notes = (f"{repeated} pairs occur twice in the published file",) if repeated else ()
    return Dataset(name="ImageNet-fake-edit", items=items, notes=notes)


def _real(folder: Path, name: str, cell: str) -> Iterator[Item]:
    file = folder / name
    for row in records(file, read_json(file)):
        yield FileItem(
            id=row.name,
            cell=cell,
            track="real",
            source=row.text(*SOURCE),
            target=row.text(*TARGET),
            path=_image(folder, row),
        )


def _image(folder: Path, row: Record) -> Path:
    return row.image([folder / place for place in FOLDERS], row.text("image_name", "image"))
