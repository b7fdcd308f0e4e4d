"""Wild-TI2I and ImageNet-R-TI2I, the benchmarks of Plug-and-Play.

Each has a file for real images and one for generated ones; whichever is there is read.
"""

from collections.abc import Iterator
from pathlib import Path

from freeprompt.bench.datasets.files import Record, read_yaml, records
from freeprompt.bench.items import Dataset, FileItem, Item
from freeprompt.errors import ConfigError


def load_wild(path: Path) -> Dataset:
    """Read Wild-TI2I.

    Raises:
        ConfigError: naming file and row.
    """
    return _load(path, "Wild-TI2I", "wild-ti2i-real.yaml", "wild-ti2i-fake.yaml")


def load_imagenet_r(path: Path) -> Dataset:
    """Read ImageNet-R-TI2I.

    Raises:
        ConfigError: naming file and row.
    """
    return _load(path, "ImageNet-R-TI2I", "imnetr-ti2i.yaml", "imnetr-fake-ti2i.yaml")


def _load(folder: Path, name: str, real: str, fake: str) -> Dataset:
    items: list[Item] = []
    for file in (folder / real, folder / fake):
        if file.exists():
            for row in records(file, read_yaml(file)):
                items += _edits(row, folder, file.name == real)
    if not items:
        raise ConfigError(
            f"'{folder}' has neither {real} nor {fake}. Give the folder as it is published."
        )
    silent = sum(item.track == "real" and not item.source for item in items)
    notes = (f"{silent} real images have no source prompt",) if silent else ()
    return Dataset(name=name, items=tuple(items), notes=notes)


def _edits(row: Record, folder: Path, real: bool) -> Iterator[Item]:
    """One item for each target prompt of a source."""
    for number, target in enumerate(row.value(list, "target_prompts")):
        if not isinstance(target, str) or not target.strip():
            raise row.fault(f"target prompt {number} is {target!r}, no text")
        name = f"{'real' if real else 'generated'}/{row.name}/{number}"
        if not real:
            yield Item(
                id=name,
                cell="ti2i",
                track="generated",
                source=row.text("source_prompt"),
                target=target.strip(),
                seed=row.value(int, "seed", default=0),
            )
            continue
        yield FileItem(
            id=name,
            cell="ti2i",
            track="real",
            source=row.text("source_prompt", default=""),
            target=target.strip(),
            path=row.image([folder / "data", folder, folder.parent], row.text("init_img")),
        )
