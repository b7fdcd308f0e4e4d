"""The folder of a run: what it is, a journal of what is finished, and where pictures go.

    run.json            what the run is: model, settings, format
    journal/*.jsonl     a line a group, appended when its pictures are there; one file a shard
    images/ab/ID.png    the pictures, or
    shards/*.tar        the same as WebDataset samples, ID.png and ID.json
    results.jsonl       one line an edit, in the order of the manifest; and results.parquet

Only the journal decides what is done. All else is written before it or made from it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from freeprompt import journal
from freeprompt.errors import ConfigError
from freeprompt.images import write_json

ABOUT, JOURNAL, RESULTS = "run.json", "journal", "results.jsonl"
TOGETHER = 4  # images that share batches; more saves little, and a kill loses them all
SAME = ("fingerprint", "dtype", "format")  # what may not change between two calls


class Store:
    """A folder of results.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def about(self) -> dict[str, Any]:
        """Read what the run is.

        Raises:
            ConfigError: if the folder is none of a run.
        """
        try:
            found: dict[str, Any] = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"'{self.folder}' is no folder of a run ({error}). Name one that "
                "`freeprompt batch MANIFEST -o FOLDER` has written."
            ) from error
        return found

    @property
    def begun(self) -> bool:
        """Whether a run has written here."""
        return (self.folder / ABOUT).exists()

    def together(self, asked: int) -> int:
        """Return how many images share batches: as asked for, or as when the run began."""
        begun = self.about() if self.begun else {}
        return asked or int(begun.get("together", TOGETHER))

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write what the run is, or check that it goes on what is there.

        Raises:
            ConfigError: if the folder holds results of other weights, precision or format.
        """
        old = self.about() if self.begun else {}
        for name in SAME:
            if old and name in about and old.get(name) != about[name]:
                raise ConfigError(
                    f"'{self.folder}' holds results of another {name} ({old.get(name)}; now "
                    f"{about[name]}). They must not be mixed: choose another folder."
                )
        commands = dict.fromkeys([*old.get("commands", []), *about.get("commands", [])])
        whole = {**old, **about, "commands": list(commands)}
        write_json(self.folder / ABOUT, whole, sync=True)

    def part(self, index: int, of: int) -> Path:
        """Return the journal of a shard."""
        return self.folder / JOURNAL / f"part-{index:05}-of-{of:05}.jsonl"

    def parts(self) -> list[Path]:
        """Return all journals there are."""
        return sorted((self.folder / JOURNAL).glob("part-*.jsonl"))

    def commits(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield what a journal says, line by line; a torn last line says nothing.

        Raises:
            ConfigError: for a line in the middle that is damaged.
        """
        for number, line in enumerate(journal.lines(path), 1):
            try:
                found = json.loads(line)
                found["rows"] = [row for row in found["rows"] if row["id"] and row["key"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"'{path}', line {number}, is no record ({error!r}). Remove that line; its "
                    "edits are then made again."
                ) from error
            yield found

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of all journals; of several with one name the last of them holds."""
        for path in self.parts():
            for commit in self.commits(path):
                yield from commit["rows"]


class Reserve:
    """A little room on the disk, kept so that a full disk can still be reported row by row.

    Args:
        path: A file of nothing, given up when it is needed.
        size: In bytes; a record takes about one kilobyte.
    """

    def __init__(self, path: Path, size: int = 2**20):
        self._path, self._size = path, size

    def take(self) -> None:
        """Set the room aside, if there is any."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(os.urandom(self._size))  # not a hole, nor compressed away

    def give(self) -> bool:
        """Give the room up; return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
