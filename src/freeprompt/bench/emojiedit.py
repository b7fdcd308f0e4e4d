"""EmojiEdit-Bench: edits whose truth is known to the pixel, listed in a manifest."""

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from freeprompt.bench.items import Dataset, Item, SceneItem
from freeprompt.bench.truth import Thresholds
from freeprompt.errors import ConfigError, unknown

NAME = "emojiedit"


def shipped_manifest() -> Path:
    """Where the manifest that comes with the package is."""
    return Path(str(resources.files("freeprompt.bench"))) / "manifests" / "emojiedit.json"


@cache
def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        ConfigError: if it is missing or lacks a part.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Thresholds(**data["thresholds"])
        if not data["splits"]:
            raise KeyError("splits")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"'{path}' is no manifest of EmojiEdit-Bench ({error!r}). Leave the path out to take "
            "the one that comes with the package."
        ) from error
    return data


def load_emojiedit(path: Path | None = None, split: str = "test") -> Dataset:
    """Load the benchmark: every pair of the manifest, on both tracks.

    Args:
        path: Manifest; None for the one that comes with the package.
        split: `test`, or `tune`, which is for choosing settings.

    Raises:
        ConfigError: if there is no such manifest or split.
    """
    data = read_manifest(path or shipped_manifest())
    if split not in data["splits"]:
        raise unknown(ConfigError, "split", split, data["splits"])
    rows = data["splits"][split]
    items: list[Item] = [SceneItem.of(row, "generated") for row in rows]
    items += [SceneItem.of(row, "real") for row in rows]
    title = f"{data['name']} {data['version']} ({split})"
    return Dataset(name=title, items=tuple(items))


def load_thresholds(path: Path | None = None) -> Thresholds:
    """Read when an edit counts as right.

    Raises:
        ConfigError: if there is no such manifest.
    """
    return Thresholds(**read_manifest(path or shipped_manifest())["thresholds"])
