"""The data sets of the field, read as they are published; you point at your copy.

`DATASETS` holds them by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freeprompt.bench.datasets.fpe import (
    load_car_fake,
    load_car_real,
    load_imagenet_fake,
    load_imagenet_real,
)
from freeprompt.bench.datasets.pie import TRAPS, load_pie
from freeprompt.bench.datasets.tedbench import load_tedbench
from freeprompt.bench.datasets.ti2i import load_imagenet_r, load_wild
from freeprompt.bench.emojiedit import load_emojiedit
from freeprompt.bench.items import Dataset
from freeprompt.errors import ConfigError, unknown

__all__ = ["DATASETS", "TRAPS", "Entry", "load_dataset"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A data set that can be loaded by name.

    Attributes:
        summary: One line for a list.
        load: Called with the path, and with `split` or `traps` where those mean something.
        needs: What the path must be; empty if the data set comes with the package.
        options: Which of `split` and `traps` it takes.
    """

    summary: str
    load: Callable[..., Dataset]
    needs: str = ""
    options: tuple[str, ...] = ()


DATASETS: dict[str, Entry] = {
    "emojiedit": Entry(
        summary="EmojiEdit-Bench: exact truth, generated and real; comes with the package",
        load=load_emojiedit,
        options=("split",),
    ),
    "car-fake": Entry(
        summary="Car-fake-edit of the FPE paper: 756 pairs of 28 colours; made by our code",
        load=load_car_fake,
    ),
    "car-real": Entry(
        summary="Car-real-edit of the FPE paper: Stanford Cars in other colours",
        load=load_car_real,
        needs="a folder with Car_real_edit.json and the images of Stanford Cars",
    ),
    "imagenet-fake": Entry(
        summary="ImageNet-fake-edit of the FPE paper: 1182 pairs of prompts",
        load=load_imagenet_fake,
        needs="a folder with ImageNet_fake_edit.json",
    ),
    "imagenet-real": Entry(
        summary="ImageNet-real-edit of the FPE paper: 1092 images of ILSVRC2012's validation set",
        load=load_imagenet_real,
        needs="a folder with ImageNet_real_edit.json and the images",
    ),
    "pie-bench": Entry(
        summary="PIE-Bench: 700 images with masks",
        load=load_pie,
        needs="a folder with mapping_file.json and annotation_images",
        options=("traps",),
    ),
    "tedbench": Entry(
        summary="TEdBench: 100 edits of 40 photos",
        load=load_tedbench,
        needs="a folder with input_list.json and originals",
    ),
    "wild-ti2i": Entry(
        summary="Wild-TI2I of Plug-and-Play",
        load=load_wild,
        needs="a folder with wild-ti2i-real.yaml, wild-ti2i-fake.yaml, or both, and data",
    ),
    "imagenet-r-ti2i": Entry(
        summary="ImageNet-R-TI2I of Plug-and-Play",
        load=load_imagenet_r,
        needs="a folder with imnetr-ti2i.yaml, imnetr-fake-ti2i.yaml, or both, and data",
    ),
}


def load_dataset(
    name: str, path: Path | None = None, *, split: str = "test", traps: Sequence[str] = ()
) -> Dataset:
    """Load a data set.

    Args:
        name: One of `DATASETS`.
        path: The user's copy; None for one that comes with the package.
        split: Of EmojiEdit-Bench.
        traps: Faults of the published evaluation to repeat, of `TRAPS`.

    Raises:
        ConfigError: for an unknown name, a path that is missing, or a file with a fault; the
            message names file and row.
    """
    if name not in DATASETS:
        raise unknown(ConfigError, "data set", name, DATASETS)
    entry = DATASETS[name]
    if entry.needs and path is None:
        raise ConfigError(
            f"{name} is yours to download: its licence forbids passing it on. Give the path of "
            f"{entry.needs}."
        )
    for trap in traps:
        if trap not in TRAPS:
            raise unknown(ConfigError, "trap", trap, TRAPS)
    if traps and "traps" not in entry.options:
        raise ConfigError(f"{name} knows no traps; got {', '.join(traps)}. They are PIE-Bench's.")
    if split != "test" and "split" not in entry.options:
        raise ConfigError(f"{name} has no split {split!r}. Leave it out.")
    options: dict[str, Any] = {"split": split, "traps": tuple(traps)}
    return entry.load(path, **{key: options[key] for key in entry.options})
