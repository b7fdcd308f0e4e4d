"""A file of JSON lines that only grows: each line whole or not there, one writer at a time."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from freeprompt.errors import SaveError
from freeprompt.images import finite


class Journal:
    """Appends lines to an open file; made by `writing`."""

    def __init__(self, handle: int):
        self._handle = handle
        self._end = os.fstat(handle).st_size

    def append(self, record: Any, *, sync: bool = True) -> None:
        """Append one line; what could not be written in whole is taken back.

        Args:
            record: What JSON can hold; infinite numbers become text.
            sync: Whether to wait until it is on the disk, which a power cut needs and a killed
                process does not.

        Raises:
            SaveError: if it cannot be written, because the disk is full.
        """
        line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"
        data = line.encode("utf-8", "replace")
        try:
            written = os.write(self._handle, data)
            if written < len(data):  # what a full disk does first
                os.write(self._handle, data[written:])
            if sync:
                os.fsync(self._handle)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, self._end)
            raise SaveError(
                f"A result could not be written ({error.strerror}). Make room on the disk, then "
                "give the same command again: it goes on where it was."
            ) from error
        self._end += len(data)


@contextmanager
def writing(path: Path) -> Iterator[Journal]:
    """Open for appending; one process at a time. What a killed writer left of a line is cut off.

    Raises:
        SaveError: if it cannot be written, or another process is writing.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise SaveError(
            f"'{path}' could not be written ({error.strerror}). Choose another folder."
        ) from error
    try:
        _lock(handle, path)
        os.ftruncate(handle, whole_bytes(handle))
        yield Journal(handle)
    finally:
        os.close(handle)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a file; a torn last line is none.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def whole_bytes(handle: int) -> int:
    """Return how many bytes of an open file are whole lines, reading from its end."""
    end = os.lseek(handle, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        os.lseek(handle, start, os.SEEK_SET)
        found = os.read(handle, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


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
