"""Where pictures go: files in folders, or WebDataset tars. Each is there whole, or not at all."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from freeprompt.batch.names import file_name, folder_name
from freeprompt.errors import SaveError
from freeprompt.images import finite

Where = dict[str, Any]
TAR_BYTES = 512 * 2**20  # a tar is closed when it has grown beyond this
BLOCK = 512


class Sink(Protocol):
    """A place for pictures."""

    def put(self, record: Mapping[str, Any], png: bytes) -> Where:
        """Write a picture; return the fields of its record that say where and what it is.

        Raises:
            SaveError: if it cannot be written.
        """

    def close(self) -> None:
        """End what is open."""


class Folders:
    """One PNG an edit, in 256 folders.

    Args:
        folder: Of the run.
        part: Name of the shard that writes; drafts of a killed one are removed.
    """

    def __init__(self, folder: Path, part: str):
        self._folder = folder
        self._draft = folder / ".drafts" / f"{part}.png"
        with suppress(OSError):
            self._draft.unlink()

    def put(self, record: Mapping[str, Any], png: bytes) -> Where:
        """Write a picture under a name that depends on nothing but its row's."""
        name = record["id"]
        file = f"images/{folder_name(name)}/{file_name(name)}.png"
        target = self._folder / file
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._draft.write_bytes(png)
            except FileNotFoundError:  # there is no folder yet, or a shard that ended took it away
                self._draft.parent.mkdir(parents=True, exist_ok=True)
                self._draft.write_bytes(png)
            self._draft.replace(target)
        except OSError as error:
            with suppress(OSError):
                self._draft.unlink()
            raise _unsaved(target, error) from error
        return {"file": file, **_content(png)}

    def close(self) -> None:
        """Remove the folder of drafts, which is empty."""
        with suppress(OSError):
            self._draft.unlink(missing_ok=True)
            self._draft.parent.rmdir()


class Tars:
    """WebDataset tars: a sample an edit, `ID.png` and `ID.json`.

    A tar grows at its end. What a killed run wrote and did not record is cut off by the next, and
    the two empty blocks with which a tar ends are written when it is closed.

    Args:
        folder: Of the run.
        part: Name of the shard that writes.
        ends: For each tar of this shard, how many of its bytes are recorded.
        limit: Bytes from which on a new tar is begun.
    """

    def __init__(self, folder: Path, part: str, ends: Mapping[str, int], limit: int = TAR_BYTES):
        self._folder, self._part, self._limit = folder, part, limit
        self._ends = dict(ends)
        self._number = max((int(name[-10:-4]) for name in self._ends), default=0)
        self._end = self._ends.get(self._name, 0)
        self._handle: int | None = None
        for name, end in self._ends.items():
            cut(folder / name, end)
        if _size(folder / self._name) < self._end:  # readers would stop at the hole
            self._number, self._end = self._number + 1, 0

    @property
    def _name(self) -> str:
        return f"shards/{self._part}-{self._number:06}.tar"

    def put(self, record: Mapping[str, Any], png: bytes) -> Where:
        """Append a sample."""
        if self._end >= self._limit:
            self.close()
            self._number, self._end = self._number + 1, 0
        name = file_name(record["id"])
        text = json.dumps(finite(dict(record)), ensure_ascii=False, allow_nan=False)
        first = _member(f"{name}.png", png)
        data = first + _member(f"{name}.json", text.encode("utf-8", "replace"))
        start = self._end
        try:
            self._append(data)
        except OSError as error:
            with suppress(OSError):
                if self._handle is not None:
                    os.ftruncate(self._handle, self._end)
            raise _unsaved(self._folder / self._name, error) from error
        self._end += len(data)
        offset = start + len(first) - _padded(len(png))
        return {"file": self._name, "offset": offset, "end": self._end, **_content(png)}

    def close(self) -> None:
        """End the tar as tars end."""
        if self._handle is None:
            return
        with suppress(OSError):  # readers take it without, too
            os.pwrite(self._handle, bytes(2 * BLOCK), self._end)
        os.close(self._handle)
        self._handle = None

    def _append(self, data: bytes) -> None:
        path = self._folder / self._name
        if self._handle is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._handle, self._end)
        done = 0
        while done < len(data):
            done += os.pwrite(self._handle, data[done:], self._end + done)


def cut(path: Path, end: int) -> None:
    """Cut off what is not recorded in a tar, and end it properly."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        if os.fstat(file.fileno()).st_size >= end:
            file.truncate(end)
            file.seek(end)
            file.write(bytes(2 * BLOCK))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _member(name: str, content: bytes) -> bytes:
    """Return a member of a tar; the same name and content give the same bytes."""
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(content), 0o644
    head = about.tobuf(tarfile.PAX_FORMAT)
    return head + content + bytes(_padded(len(content)) - len(content))


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _content(png: bytes) -> Where:
    return {"bytes": len(png), "sha256": sha256(png).hexdigest()}


def verified(folder: Path, record: Mapping[str, Any], how: str) -> bool:
    """Whether the picture of a record is there, and is the one that was written.

    Args:
        folder: Of the run.
        record: Of an edit that was made.
        how: `hash` reads it whole, `size` looks whether its bytes are there, `none` believes.
    """
    if how == "none":
        return True
    try:
        offset, size = record.get("offset", 0), record["bytes"]
        with (folder / record["file"]).open("rb") as file:
            end = file.seek(0, io.SEEK_END)
            if end < offset + size or ("offset" not in record and end != size):
                return False
            if how == "size":
                return True
            file.seek(offset)
            return bool(sha256(file.read(size)).hexdigest() == record["sha256"])
    except (OSError, KeyError, TypeError):
        return False


def _unsaved(path: Path, error: OSError) -> SaveError:
    return SaveError(
        f"'{path.name}' could not be written ({error.strerror or error}). Make room on the disk "
        "or see to your rights, then give the same command with --retry-errors."
    )
