"""LoRAs, embeddings and configs again, from what a picture carries."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeprompt.cli import loading
from freeprompt.errors import ConfigError

if TYPE_CHECKING:
    from freeprompt.api import Provenance

NAMES = {"lora": "LoRA", "embedding": "embedding", "config": "config"}


def bring_again(recipe: "Provenance", png: Path) -> None:
    """Have the model loaded with all that was brought to it then, each file with its contents.

    Files are looked for where they were, beside the picture, and where `--lora`, `--embedding` or
    `--config` of this command say.

    Raises:
        ConfigError: naming the file that is missing or has changed since.
    """
    again: dict[str, Any] = {}
    for kind in NAMES:
        items, given = recipe.brought.get(kind, []), _given(kind)
        if given and not items:
            raise ConfigError(
                f"{str(png)!r} was made without --{kind}. Leave it out, or make a new edit."
            )
        found = [_found(kind, item, given, png) for item in items]
        if found:
            again[kind] = found[0] if kind == "config" else found
    for item in recipe.brought.get("variant", []):
        again["variant"] = item["name"]
    loading.choose(**again)


def _given(kind: str) -> list[tuple[str, float | None]]:
    """Return the files that this command names, each with its weight if it is a LoRA."""
    from freeprompt.models.adapters import parse_lora

    told = loading.told(kind)
    items = [told] if isinstance(told, str) else list(told or [])
    if kind == "lora":
        return [parse_lora(item.removeprefix("lcm=")) for item in items]
    return [(item if Path(item).exists() else item.rpartition("=")[2], None) for item in items]


def _found(
    kind: str, item: dict[str, Any], given: list[tuple[str, float | None]], png: Path
) -> str:
    """Return what the option was, with the place where the file is now."""
    name = item["name" if kind == "config" else "file"]
    if "sha256" not in item or (item.get("lcm") and name == "lcm"):
        # a config of the package, or the LoRA for few steps that belongs to the model
        return f"{name}:{item['weight']!r}" if kind == "lora" else str(name)
    places = [file for file, _ in given] or [name, str(png.parent / Path(name).name)]
    there = [place for place in places if Path(place).exists()]
    same = [place for place in there if _contents(place) == item["sha256"]]
    if not same:
        raise ConfigError(_lost(kind, str(name), there, png))
    if kind == "lora":
        weights = {weight for file, weight in given if file == same[0]} - {1.0, item["weight"]}
        if weights:
            raise ConfigError(
                f"{str(png)!r} was made with {name!r} at weight {item['weight']:g}, not "
                f"{weights.pop():g}. Leave the weight out, or make a new edit."
            )
        return f"{'lcm=' if item.get('lcm') else ''}{same[0]}:{item['weight']!r}"
    return f"{item['token']}={same[0]}" if kind == "embedding" else same[0]


def _contents(place: str) -> str:
    from freeprompt.models.brought import file_sha256, folder_sha256

    return folder_sha256(place) if Path(place).is_dir() else file_sha256(place)


def _lost(kind: str, name: str, there: list[str], png: Path) -> str:
    what = f"the {NAMES[kind]} that {str(png)!r} was made with"
    if not there:
        return f"{name!r}, {what}, is not there. Give its place with --{kind}."
    return (
        f"{there[0]!r} is not {what}: its contents have changed. Give the original with --{kind}, "
        "or make a new edit."
    )
