"""Results on disk: one JSON line an edit, appended whole, so that a killed run loses none."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from freeprompt.errors import ConfigError, SaveError
from freeprompt.images import finite, write_json

ROWS, ABOUT = "rows.jsonl", "run.json"
Row = dict[str, Any]


class Store:
    """A folder of results.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / ROWS

    def rows(self) -> list[Row]:
        """Read all results; of several with one key the last. A torn last line does not count.

        Raises:
            ConfigError: if there are none.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise ConfigError(
                f"There are no results in '{self.folder}' ({error.strerror}). Make some with "
                "`freeprompt bench run -o FOLDER`."
            ) from error
        found: dict[str, Row] = {}
        for number, line in enumerate(lines[:-1], 1):  # a whole line ends with a newline
            try:
                row = json.loads(line)
                found[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"'{self.path}', line {number}, is no result ({error!r}). Remove that line; "
                    "the edit is then made again."
                ) from error
        return list(found.values())

    def done(self, *, retry: bool = False) -> set[str]:
        """Keys of the edits that need not be made again.

        Args:
            retry: Whether those that ended in an error shall be tried again.
        """
        if not self.path.exists():
            return set()
        return {row["key"] for row in self.rows() if not (retry and row["error"])}

    def about(self) -> dict[str, Any]:
        """Read what the run was: data set, model, machine, what was skipped."""
        try:
            found: dict[str, Any] = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"'{self.folder}' is no folder of a benchmark run ({error}). Name one that "
                "`freeprompt bench run -o FOLDER` has written."
            ) from error
        return found

    def begin(self, about: dict[str, Any]) -> None:
        """Write what the run is, or check that it goes on what is there.

        Raises:
            ConfigError: if the folder holds results of another data set or other weights.
        """
        if (self.folder / ABOUT).exists():
            old = self.about()
            for name in ("dataset", "fingerprint"):
                if old.get(name) != about.get(name):
                    raise ConfigError(
                        f"'{self.folder}' holds results of another {name} ({old.get(name)}; now "
                        f"{about.get(name)}). They must not be mixed: choose another folder."
                    )
            about = {**about, "commands": _joined(old, about)}
        write_json(self.folder / ABOUT, about)

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Open for appending; one process at a time.

        Raises:
            SaveError: if it cannot be written, or another run is writing.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise SaveError(
                f"'{self.path}' could not be written ({error.strerror}). Choose another folder."
            ) from error
        try:
            _lock(handle, self.path)
            _drop_torn_line(handle)
            yield Writer(handle)
        finally:
            os.close(handle)


class Writer:
    """Appends rows to an open file."""

    def __init__(self, handle: int):
        self._handle = handle

    def append(self, row: Row) -> None:
        """Append a row with a single write, and have it on the disk before going on.

        Raises:
            SaveError: if the disk is full.
        """
        line = json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            os.write(self._handle, line.encode())
            os.fsync(self._handle)
        except OSError as error:
            raise SaveError(f"A result could not be written ({error.strerror}).") from error


def _joined(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys([*old.get("commands", []), *new.get("commands", [])]))


def _lock(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a Unix system
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SaveError(
            f"Another run is writing to '{path}'. Wait for it, or choose another folder."
        ) from error


def _drop_torn_line(handle: int) -> None:
    """Cut off what a killed run left of its last line."""
    size = os.lseek(handle, 0, os.SEEK_END)
    with suppress(OSError), os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(handle, whole)
