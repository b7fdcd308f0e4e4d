"""A plan: which data, which model, which contenders; read from a TOML file."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

from freeprompt.bench.contenders import BASELINES, Contender, check_kinds, grid, pictures
from freeprompt.bench.datasets import DATASETS, load_dataset
from freeprompt.bench.fields import check_options
from freeprompt.bench.items import TRACKS, Dataset
from freeprompt.errors import ConfigError, unknown

KINDS: dict[str, type] = {
    **dict.fromkeys(("model", "device", "dtype", "name", "path", "split"), str),
    **dict.fromkeys(("processes", "limit"), int),
    **dict.fromkeys(("data", "metrics"), dict),
    **dict.fromkeys(("grid", "pictures", "include", "baselines"), list),
    "keep_pictures": bool,
}
"""What the settings of a plan are, those of [data] among them; lists of names are checked apart."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which items are edited.

    Attributes:
        name: Of the data set, one of `DATASETS`.
        path: Of the user's copy; None for one that comes with the package.
        split: Of EmojiEdit-Bench: `test` or `tune`.
        tracks: Tracks to keep.
        cells: Cells to keep; empty for all.
        limit: Items of each cell of each track to keep; None for all.
        traps: Faults of published evaluations to repeat, see `docs/benchmark.md`.
    """

    name: str = "emojiedit"
    path: Path | None = None
    split: str = "test"
    tracks: tuple[str, ...] = TRACKS
    cells: tuple[str, ...] = ()
    limit: int | None = None
    traps: tuple[str, ...] = ()

    def load(self) -> Dataset:
        """Load them.

        Raises:
            ConfigError: for a data set, split, cell or trap that does not exist, or a bad file.
        """
        whole = load_dataset(self.name, self.path, split=self.split, traps=self.traps)
        return whole.only(tracks=self.tracks, cells=self.cells, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a run is made of.

    Attributes:
        model: Catalogue name, folder or Hub id.
        device: As `freeprompt.load` takes it.
        dtype: Likewise.
        processes: How many edits are made at a time.
        keep_pictures: Whether the edits are kept as PNG files; the report shows some.
        data: What is edited.
        metrics: What else is measured, see `freeprompt.bench.fields.DEFAULTS`.
        contenders: Who edits.
        notes: What included files say of themselves, for the report.
    """

    model: str = "emoji-sd"
    device: str = "auto"
    dtype: str = "auto"
    processes: int = 1
    keep_pictures: bool = True
    data: Data = field(default_factory=Data)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    contenders: tuple[Contender, ...] = ()
    notes: tuple[str, ...] = ()

    def with_options(
        self, *, data: Mapping[str, Any], steps: int | None = None, **options: Any
    ) -> "Plan":
        """Override what is not None.

        Args:
            data: Fields of `data`.
            steps: Denoising steps of every contender that is not made for a number of its own.
            options: Other fields.
        """
        given = {name: value for name, value in options.items() if value is not None}
        of_data = {name: value for name, value in data.items() if value is not None}
        if steps is not None:
            given["contenders"] = tuple(c.at(steps) for c in self.contenders)
        return checked(replace(self, **given, data=replace(self.data, **of_data)))


def shipped_plans() -> dict[str, Path]:
    """Plans that come with the package, by name."""
    folder = Path(str(resources.files("freeprompt.bench"))) / "plans"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_plan(name: str) -> Path:
    """Find a plan by the name of a file or of one that comes with the package.

    Raises:
        ConfigError: if there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == ".toml":
        raise ConfigError(f"There is no plan '{name}'. Name a TOML file, or one of the package's.")
    if name not in shipped_plans():
        raise unknown(ConfigError, "plan", name, shipped_plans())
    return shipped_plans()[name]


def read_plan(path: Path, include: Iterable[Path] = ()) -> Plan:
    """Read a plan.

    Args:
        path: The plan.
        include: Files with more [[grid]] tables, such as `freeprompt bench tune` writes.

    Raises:
        ConfigError: naming the file and what is wrong in it.
    """
    try:
        plan = _plan(_toml(path), path.parent)
    except ConfigError as error:
        raise type(error)(f"'{path}': {error}") from error
    files = list(include)
    more = [contender for file in files for contender in read_grids(file)]
    notes = (*plan.notes, *(note for file in files for note in _comments(file)))
    return replace(plan, contenders=(*plan.contenders, *more), notes=notes)


def _comments(path: Path) -> list[str]:
    """What a file says of itself at its head, as one text; nothing if it says nothing."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in lines)
    return [text] if text else []


def read_grids(path: Path) -> list[Contender]:
    """Read the contenders of a file with nothing but [[grid]] tables.

    Raises:
        ConfigError: naming the file and what is wrong in it.
    """
    try:
        table = _toml(path)
        check_kinds(table, KINDS)
        return [one for entry in table.get("grid", []) for one in grid(entry)]
    except ConfigError as error:
        raise type(error)(f"'{path}': {error}") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"It cannot be read as TOML ({error}).") from error


def _plan(table: dict[str, Any], folder: Path) -> Plan:
    known = {"model", "device", "dtype", "processes", "keep_pictures"}
    parts = ("data", "metrics", "grid", "pictures", "include", "baselines")
    for name in table:
        if name not in {*known, *parts}:
            raise unknown(ConfigError, "setting", name, [*known, *parts])
    check_kinds(table, KINDS)
    baselines = table.get("baselines", list(BASELINES))
    contenders = [Contender(method=name) for name in baselines]
    contenders += [one for entry in table.get("grid", []) for one in grid(entry)]
    contenders += [pictures(entry, folder) for entry in table.get("pictures", [])]
    included = _names("include", table.get("include", []))
    contenders += [one for name in included for one in read_grids(folder / name)]
    return checked(
        Plan(
            **{name: value for name, value in table.items() if name in known},
            data=_data(table.get("data", {}), folder),
            metrics=table.get("metrics", {}),
            contenders=tuple(contenders),
        )
    )


def _data(table: Mapping[str, Any], folder: Path) -> Data:
    values: dict[str, Any] = dict(table)
    for name in values:
        if name not in Data.__dataclass_fields__:
            raise unknown(ConfigError, "setting of [data]", name, Data.__dataclass_fields__)
    check_kinds(values, KINDS)
    for name in ("tracks", "cells", "traps"):
        if name in values:
            values[name] = tuple(_names(name, values[name]))
    if "path" in values:
        values["path"] = folder / Path(values["path"]).expanduser()
    return Data(**values)


def _names(setting: str, value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{setting} must be a list of names; got {value!r}.")
    return value


def checked(plan: Plan) -> Plan:
    """Check what can be checked without loading anything.

    Raises:
        ConfigError: saying what is wrong.
    """
    if plan.data.name not in DATASETS:
        raise unknown(ConfigError, "data set", plan.data.name, DATASETS)
    if type(plan.processes) is not int or plan.processes < 1:
        raise ConfigError(f"processes must be a whole number from 1 on; got {plan.processes!r}.")
    check_options(plan.metrics)
    if not plan.contenders:
        raise ConfigError('The plan names nobody who edits. Give it a [[grid]] with method = "*".')
    return plan
