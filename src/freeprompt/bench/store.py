"""Results on disk: one JSON line an edit, appended whole, so that a killed run loses none."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from freeprompt.errors import ConfigError
from freeprompt.images import write_json
from freeprompt.journal import Journal, writing

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
        write_json(self.folder / ABOUT, about, sync=True)

    def writing(self) -> AbstractContextManager[Journal]:
        """Open for appending; one process at a time.

        Raises:
            SaveError: if it cannot be written, or another run is writing.
        """
        return writing(self.path)


def _joined(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys([*old.get("commands", []), *new.get("commands", [])]))
