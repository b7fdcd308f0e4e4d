"""Reading published files, with messages that name file and row."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from freeprompt.errors import ConfigError

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ConfigError: if it is missing or no JSON.
    """
    return _read(path, json.loads)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: if it is missing or no YAML.
    """
    import yaml  # type: ignore[import-untyped]

    return _read(path, yaml.safe_load)


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error.strerror}). The folder must be laid out as it is "
            "published."
        ) from error
    except Exception as error:  # of whichever parser
        raise ConfigError(f"'{path}' is damaged ({error}). Get it anew.") from error


class Record:
    """One row of a published file.

    Args:
        path: The file.
        name: Number or key of the row.
        values: What it holds.
    """

    def __init__(self, path: Path, name: str, values: Any):
        self._path, self.name = path, name
        if not isinstance(values, Mapping):
            raise self.fault(f"is {type(values).__name__}, not a record")
        self._values = values

    def fault(self, what: str) -> ConfigError:
        """Build the error for something that is wrong with this row."""
        return ConfigError(
            f"'{self._path}', row {self.name}: {what}. Compare it with the published file."
        )

    def text(self, *keys: str, default: str | None = None) -> str:
        """Return the text under the first of several keys that is there.

        Raises:
            ConfigError: if there is none, or no text.
        """
        return self.value(str, *keys, default=default).strip()

    def value(self, kind: type[T], *keys: str, default: T | None = None) -> T:
        """Return the value under the first of several keys that is there.

        Raises:
            ConfigError: if there is none, or one of another kind.
        """
        found = [self._values[key] for key in keys if key in self._values]
        if not found:
            if default is not None:
                return default
            raise self.fault(f"there is no {keys[0]!r} in it ({', '.join(map(str, self._values))})")
        if not isinstance(found[0], kind):
            raise self.fault(f"{keys[0]!r} must be {kind.__name__}; it is {found[0]!r}")
        return found[0]

    def image(self, places: Iterable[Path], name: str) -> Path:
        """Find an image by its name in the first of several folders that has it.

        The name may itself hold folders, which published copies keep or drop.

        Raises:
            ConfigError: if none has.
        """
        tried = [place / part for place in places for part in (name, Path(name).name)]
        for path in tried:
            if path.is_file():
                return path
        raise self.fault(f"there is no image {name!r} (looked for '{tried[0]}' and elsewhere)")


def records(path: Path, data: Any) -> Iterator[Record]:
    """Yield the rows of a list, or of a table by key.

    Raises:
        ConfigError: if it is neither, or empty.
    """
    if isinstance(data, list):
        data = dict(enumerate(data))
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(f"'{path}' holds no rows. Compare it with the published file.")
    for name, values in data.items():
        yield Record(path, str(name), values)
