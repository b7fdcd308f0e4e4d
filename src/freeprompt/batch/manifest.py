"""From the rows of a manifest to jobs, with all that can be refused before a model is loaded."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from freeprompt.api import checks
from freeprompt.api.mask import check_uses_mask
from freeprompt.api.pairs import check_pair
from freeprompt.api.source import checked_seed
from freeprompt.batch import tables
from freeprompt.batch.jobs import Job, Pair, pair, row_seed, text_of
from freeprompt.batch.names import check_name
from freeprompt.batch.places import Root
from freeprompt.core.params import Parameters
from freeprompt.errors import ConfigError, FreepromptError, unknown
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS

SEEDS = ("hashed", "given")
USUAL_GUIDANCE = 7.5  # for checks only: what a model's own default is, is known when it is loaded
SHOWN = 20  # problems of a manifest that are told, of each kind the first row


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What holds where a row says nothing.

    Attributes:
        method: Name of the method.
        inversion: Name of the inversion, or None for the method's own.
        parameters: Parameters of methods and inversions; each goes to the rows that have it.
        source: Source prompt, or None.
        steps: Denoising steps, or None for the model's default.
        guidance: Guidance scale, likewise.
        negative: Negative prompt.
        native: Whether edits of real images keep the model's size.
        seed: Of the run.
        seeds: `hashed` mixes the seed with the id of each row; `given` uses it as it is.
    """

    method: str = "fpe"
    inversion: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    native: bool = False
    seed: int = 0
    seeds: str = "hashed"

    def __post_init__(self) -> None:
        if self.seeds not in SEEDS:
            raise unknown(ConfigError, "way to seed", self.seeds, SEEDS)
        known = parameters_of([*METHODS.values(), *INVERSIONS.values()])
        for name in self.parameters:
            if name not in known:
                raise unknown(ConfigError, "parameter", name, known)


def parameters_of(owners: "list[type[Parameters]]") -> set[str]:
    """Names of the parameters of several methods or inversions."""
    return {name for owner in owners for name in owner.specs()}


class FieldError(Exception):
    """What is wrong with one field of a row."""

    def __init__(self, name: str, what: object):
        super().__init__(str(what))
        self.name = name


COLUMNS = {
    "id": str,
    "image": str,
    "source": str,
    "target": str,
    "targets": list,
    "mask": str,
    "seed": int,
    "method": str,
    "inversion": str,
    "steps": int,
    "guidance": float,
    "negative": str,
    "native": bool,
}
KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
MEANING_EMPTY = {"negative", "source"}  # an empty cell of these says something in JSON
MOST_STEPS = 10_000  # no model has more timesteps, and the results' table must hold them
EXACT = 2**53  # below it a float is the whole number that was written


class Reader:
    """Turns rows into jobs.

    Args:
        manifest: File or address; its ending says how it is read.
        defaults: What holds where a row says nothing.
        root: Where its pictures lie; by default where the manifest does.
    """

    def __init__(self, manifest: str, defaults: Defaults, root: str | None = None):
        self.manifest, self.defaults = manifest, defaults
        self.root = Root.of(manifest) if root is None else Root.at(root)
        self._loose = manifest.lower().endswith(".csv")  # every cell is text
        owners = [*METHODS.values(), *INVERSIONS.values()]
        self._parameters = parameters_of(owners)

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs of all rows, in their order.

        Raises:
            ConfigError: naming file, row and field of whatever is wrong.
        """
        problems = Problems(self.manifest)
        for number, row in tables.rows(self.manifest):
            problems.rows += 1
            try:
                yield from self.of_row(number, row)
            except FieldError as error:
                problems.add(number, error.name, str(error))
        problems.finish()

    def of_row(self, number: int, row: Mapping[str, Any]) -> list[Job]:
        """Return the jobs of one row, one a target.

        Raises:
            FieldError: for the first field that is wrong.
        """
        given = {name: v for name, v in row.items() if not self._absent(name, v)}
        carried = {name: v for name, v in given.items() if name.startswith("_")}
        for name in given:
            if name not in COLUMNS and name not in self._parameters and name not in carried:
                raise FieldError(name, _unknown_column(name, self._parameters))
        values = {name: self._value(name, v) for name, v in given.items() if name in COLUMNS}
        _check_storable(given)
        names = _named(values)
        shared = self._shared(number, values, given)
        for _, target in names:
            _asking("target", checks.checked_prompts, target)
        _asking("target", _pair(shared).method.check, [target for _, target in names])
        return [
            Job(id=name, row=number, target=target, carried=carried, **shared)
            for name, target in names
        ]

    def _absent(self, name: str, value: Any) -> bool:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        return value == "" and (self._loose or name not in MEANING_EMPTY)

    def _value(self, name: str, value: Any) -> Any:
        kind = COLUMNS[name]
        if name == "id" and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if kind is list:
            return _texts(value, self._loose)
        if self._loose and kind is not str:
            value = _of_text(kind, value)
        fitting = _fitted(kind, value)
        if fitting is None:
            raise FieldError(name, f"must be {KINDS[kind]}; got {value!r}")
        return fitting

    def _shared(
        self, number: int, values: Mapping[str, Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what all jobs of a row have in common, checked."""
        plain = self.defaults
        shared: dict[str, Any] = {
            name: values.get(name, getattr(plain, name, None))
            for name in ("image", "source", "mask", "method", "inversion", "steps", "guidance")
        }
        shared["negative"] = values.get("negative", plain.negative)
        shared["native"] = values.get("native", plain.native) and shared["image"] is not None
        own = {name: value for name, value in given.items() if name in self._parameters}
        shared["parameters"] = {**self._fitting(shared), **own}
        found = _checked(shared)
        for name in ("image", "mask"):
            if shared[name] is not None:
                _asking(name, self.root.place, shared[name])
        seed = values.get("seed", plain.seed)
        _asking("seed", checked_seed, seed)
        hashed = plain.seeds == "hashed" and found.needs_seed(shared["image"])
        return {**shared, "seed": row_seed(seed, values["id"]) if hashed else seed}

    def _fitting(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of the flags that the row's method and inversion have."""
        if not self.defaults.parameters:
            return {}
        bare = _asking("method", pair, shared["method"], shared["inversion"], "{}", None)
        known = parameters_of([type(bare.method), type(bare.inversion)])
        return {n: value for n, value in self.defaults.parameters.items() if n in known}


def _named(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and target prompt of every edit of a row."""
    if "id" not in values:
        raise FieldError("id", "is missing; every row needs a name of its own")
    name = values["id"]
    if "target" in values and "targets" in values:
        raise FieldError("targets", "stands beside target; give one of them")
    if "target" in values:
        names = [(name, values["target"])]
    elif values.get("targets"):
        names = [(f"{name}-{i}", target) for i, target in enumerate(values["targets"])]
    else:
        raise FieldError("target", "is missing; give target, or targets for several")
    for one, _ in names:
        _asking("id", check_name, one)
    return names


def _texts(value: Any, loose: bool) -> list[str]:
    if loose and isinstance(value, str):
        value = [part.strip() for part in value.split("|")]
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise FieldError("targets", f"must be a list of texts (in CSV: with |); got {value!r}")
    return value


def _of_text(kind: type, value: str) -> Any:
    """Read a cell of CSV; what cannot be read is returned as it is, for the message."""
    if kind is bool:
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    for read in (kind, float):
        with suppress(ValueError):
            return read(value)
    return value


def _fitted(kind: type, value: Any) -> Any:
    """Return a value as its kind, None if it is of another; columns with gaps hold 7 as 7.0."""
    if isinstance(value, bool) and kind is not bool:
        return None
    if kind is int and isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    if kind is float and isinstance(value, int):
        return float(value) if abs(value) < EXACT else None
    return value if isinstance(value, kind) else None


def _check_storable(given: Mapping[str, Any]) -> None:
    """Refuse what results could not hold: half a surrogate pair, a date or bytes of Parquet."""
    for name, value in given.items():
        try:
            text_of({name: value}).encode()
        except UnicodeEncodeError:
            raise FieldError(name, f"must be text that UTF-8 can hold; got {value!r}") from None
        except TypeError as error:
            raise FieldError(
                name, f"must be what JSON can hold ({error}); got {value!r}. Write it as text"
            ) from None


def _checked(shared: Mapping[str, Any]) -> Pair:
    """Check what the editor would refuse, without an editor."""
    if shared["image"] is None and shared["source"] is None:
        raise FieldError(
            "image", "is missing; give image (a real one) or source (prompt of a generated one)"
        )
    guidance = USUAL_GUIDANCE if shared["guidance"] is None else shared["guidance"]
    _asking("guidance", checks.checked_guidance, guidance)
    if shared["method"] not in METHODS:
        _asking("method", lambda: METHODS[shared["method"]])
    if shared["inversion"] is not None and shared["inversion"] not in INVERSIONS:
        _asking("inversion", lambda: INVERSIONS[shared["inversion"]])
    if shared["steps"] is not None and not 1 <= shared["steps"] <= MOST_STEPS:
        raise FieldError(
            "steps", f"must be at least 1 and at most {MOST_STEPS}; got {shared['steps']}"
        )
    found = _pair(shared)
    if shared["mask"] is not None:
        _asking("mask", check_uses_mask, found.method)
    _asking("method", check_pair, found.method, found.inversion, shared["image"], found.asked,
            shared["source"], guidance, shared["negative"])  # fmt: skip
    return found


def _pair(shared: Mapping[str, Any]) -> Pair:
    text = text_of(shared["parameters"])
    found: Pair = _asking(
        _parameter_named, pair, shared["method"], shared["inversion"], text, shared["steps"]
    )
    return found


def _parameter_named(error: Exception) -> str:
    """Name the field that a message about a parameter is about: it begins with its name."""
    text = str(error)
    quoted = text.removeprefix("Unknown parameter '").partition("'")[0]
    first = quoted if text.startswith("Unknown parameter") else text.partition(" ")[0]
    return first if first.isidentifier() and first.islower() else "method"


def _asking(name: Any, ask: Any, *arguments: Any) -> Any:
    """Call a check; what it refuses becomes the fault of a field."""
    try:
        with warnings.catch_warnings():
            return ask(*arguments)
    except (FreepromptError, TypeError) as error:
        raise FieldError(name(error) if callable(name) else name, error) from error


def _unknown_column(name: str, parameters: set[str]) -> str:
    error = unknown(ConfigError, "column", name, [*COLUMNS, *parameters])
    return f"{str(error).partition(' Available')[0]} Columns of your own begin with '_'"


class Problems:
    """What is wrong with a manifest: every kind of fault once, with its first row."""

    def __init__(self, manifest: str):
        self.manifest, self.rows, self.wrong = manifest, 0, 0
        self._first: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, row: int, name: str, what: str) -> None:
        """Note one."""
        self.wrong += 1
        row, count = self._first.get((name, what), (row, 0))
        if len(self._first) < SHOWN or count:
            self._first[name, what] = row, count + 1

    def finish(self) -> None:
        """Refuse the manifest if there is a fault, or no row at all.

        Raises:
            ConfigError: naming file, rows and fields.
        """
        if not self.rows:
            raise ConfigError(f"'{self.manifest}' holds no row. Give it one a picture.")
        if not self.wrong:
            return
        told = [
            f"row {row}, {name}: {what}" + (f" (and {count - 1} more rows)" if count > 1 else "")
            for (name, what), (row, count) in self._first.items()
        ]
        hidden = self.wrong - sum(count for _, count in self._first.values())
        told += [f"and {hidden} more rows"] if hidden else []
        raise ConfigError(
            f"'{self.manifest}': {self.wrong} of {self.rows} rows cannot be used.\n  "
            + "\n  ".join(told)
        )
