"""Reading manifests row by row: JSON lines, CSV and Parquet, from a disk or an address."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from freeprompt.batch.places import open_binary
from freeprompt.errors import ConfigError, MissingDependency

Rows = Iterator[tuple[int, dict[str, Any]]]


def rows(manifest: str) -> Rows:
    """Yield (number, row) of a manifest; rows are counted from 1, empty lines left out.

    Raises:
        ConfigError: naming the file, and the row from which on it cannot be read.
        MissingDependency: if it needs a package that is not installed.
    """
    ending = PurePosixPath(manifest.replace("\\", "/")).suffix.lower()
    if ending not in READERS:
        raise ConfigError(
            f"'{manifest}' is no manifest by its name. Allowed: {', '.join(READERS)}."
        )
    try:
        with open_binary(manifest) as file:
            yield from READERS[ending](manifest, file)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"'{manifest}' could not be read ({reason}). Allowed: a JSONL, CSV or Parquet file."
        ) from error


def _jsonl(name: str, file: IO[bytes]) -> Rows:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(name, number, f"is not JSON ({error})") from error
        except RecursionError as error:
            raise _unreadable(name, number, "is nested too deeply") from error
        if not isinstance(row, dict):
            raise _unreadable(name, number, f"is no JSON object but {_short(row)}")
        yield number, row


def _csv(name: str, file: IO[bytes]) -> Rows:
    number = 0
    try:
        with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            head = [cell.strip() for cell in next(reader, [])]
            _check_head(name, head)
            for number, cells in enumerate(reader, 1):
                if not any(cells):
                    continue
                if len(cells) != len(head):
                    raise _unreadable(name, number, f"has {len(cells)} cells, the head {len(head)}")
                yield number, dict(zip(head, cells, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _unreadable(name, number + 1, f"is not CSV in UTF-8 ({error})") from error


def _check_head(name: str, head: list[str]) -> None:
    twice = sorted({column for column in head if head.count(column) > 1})
    if twice:
        raise ConfigError(f"'{name}': the column {twice[0]!r} stands twice in the first line.")


def _parquet(name: str, file: IO[bytes]) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency(
            'Parquet needs pyarrow: pip install "freeprompt[batch]". JSONL and CSV do without.'
        ) from error
    try:
        table = pyarrow.parquet.ParquetFile(file)
        number = 0
        for part in table.iter_batches(batch_size=4096):
            for row in part.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise ConfigError(f"'{name}' is not Parquet ({error}). Write it again.") from error


def _unreadable(name: str, number: int, what: str) -> ConfigError:
    return ConfigError(f"'{name}', row {number}, {what}. Correct that row.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


READERS: dict[str, Callable[[str, IO[bytes]], Rows]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
