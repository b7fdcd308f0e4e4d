"""What is to be made: one job a picture, and the jobs that are made together."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from hashlib import sha256
from typing import Any

from freeprompt.api import checks
from freeprompt.core import Tape
from freeprompt.inversion import INVERSIONS, Inversion
from freeprompt.methods import Method

MAX_GROUP = 256  # edits of a group; more are made as several groups


@dataclass(frozen=True, kw_only=True)
class Job:
    """One edit that is to be made.

    Attributes:
        id: Names it, and its file.
        row: Row of the manifest it comes from, from 1.
        target: Target prompt.
        image: The real image as the manifest names it, or None.
        source: Source prompt, or None.
        mask: Where the picture may change, as the manifest names it, or None.
        method: Name of the method.
        inversion: Name of the inversion if the manifest or a flag asks for one, or None.
        parameters: Parameters of both.
        steps: Denoising steps, or None for the model's default.
        guidance: Guidance scale, likewise.
        negative: Negative prompt.
        native: Whether an edit of a real image keeps the model's size.
        seed: As it is used; see `row_seed`.
        carried: Columns that are none of ours, to be found again in the results.
    """

    id: str
    row: int
    target: str
    image: str | None = None
    source: str | None = None
    mask: str | None = None
    method: str = "fpe"
    inversion: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    native: bool = False
    seed: int = 0
    carried: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {name: getattr(self, name) for name in NAMES}

    @property
    def settings(self) -> dict[str, Any]:
        """All but its name and its target: jobs that agree in it are made in one batch."""
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def key(self) -> str:
        """Hash of all that the picture depends on, and of what its result carries.

        The row is left out: a manifest in another order makes the same pictures.
        """
        return digest({name: getattr(self, name) for name in NAMES if name != "row"})

    @property
    def pair(self) -> "Pair":
        """Method and inversion with all their parameters."""
        return pair(self.method, self.inversion, text_of(self.parameters), self.steps)

    def group_key(self) -> str:
        """Hash of what the inversion depends on: jobs that agree in it share one.

        A generated source has no inversion, and is made together with its targets.
        """
        if self.image is None:
            return digest(self.settings)
        shared = {name: getattr(self, name) for name in SHARED}
        if self.pair.method.inverts:
            shared["inversion"] = self.pair.inversion_text
            shared["seed"] = self.seed if "noises" in self.pair.inversion.gives else None
        if self.pair.records:
            shared["recorded"] = self.method, self.parameters
        return digest(shared)


NAMES = tuple(f.name for f in fields(Job))
SETTINGS = tuple(name for name in NAMES if name not in {"id", "row", "target", "carried"})
SHARED = ("image", "source", "steps", "guidance", "negative", "native")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Method and inversion of a job, and what grouping must know of them.

    Attributes:
        method: The method.
        inversion: The inversion that a real image gets.
        asked: Whether the job asks for that inversion, by its name or its parameters.
        inversion_text: The inversion with its parameters.
        records: Whether the method records during the inversion.
    """

    method: Method
    inversion: Inversion
    asked: bool
    inversion_text: str
    records: bool

    def needs_seed(self, image: str | None) -> bool:
        """Whether an edit depends on its seed at all."""
        drawn = self.method.inverts and "noises" in self.inversion.gives
        return image is None or self.method.seeded or drawn


@lru_cache(4096)
def pair(method: str, inversion: str | None, parameters: str, steps: int | None) -> Pair:
    """Resolve names and parameters (as text: manifests repeat the same few a million times).

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """
    given = json.loads(parameters)
    how, via = checks.resolve(method, inversion, given)
    if steps is not None:
        how.check_steps(steps)
    return Pair(
        method=how,
        inversion=via,
        asked=inversion is not None or bool(set(via.specs()) & set(given)),
        inversion_text=f"{INVERSIONS.name_of(via)} {text_of(via.to_dict())}",
        records=bool(how.while_inverting(Tape(), 50 if steps is None else steps)),
    )


def row_seed(seed: int, row_id: str) -> int:
    """Mix the seed of a run with the name of a row: from 0 to 2**63-1, the same everywhere."""
    mixed = sha256(f"{seed}\n{row_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(mixed[:8], "big") >> 1


def text_of(data: Any) -> str:
    """Return a value of JSON types as text, equal for equal values."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def digest(data: Any) -> str:
    """Return 32 hexadecimal digits that name a value of JSON types."""
    return sha256(text_of(data).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Jobs of one image or a few: what an engine hands to a worker.

    Attributes:
        number: Its place among all groups, from 0.
        jobs: All jobs, also those that are done: who is in a batch must not depend on what was
            finished before, because the rounding of a batch depends on its size.
        wanted: Names of the jobs whose results are asked for.
    """

    number: int
    jobs: tuple[Job, ...]
    wanted: frozenset[str]

    def families(self) -> "Iterator[Group]":
        """Yield the jobs of each image, which share its inversion, as a group of their own."""
        for jobs in equal(self.jobs, Job.group_key):
            wanted = self.wanted & {job.id for job in jobs}
            yield Group(number=self.number, jobs=tuple(jobs), wanted=wanted)

    def batches(self, size: int) -> Iterator[tuple[Job, ...]]:
        """Yield the jobs of one image that are made in one call."""
        for same in equal(self.jobs, lambda job: digest(job.settings)):
            yield from batched(same, size)

    def dumps(self) -> str:
        """Return the group as text, for another process or machine."""
        return json.dumps(
            {
                "number": self.number,
                "jobs": [job.to_dict() for job in self.jobs],
                "wanted": sorted(self.wanted),
            }
        )

    @classmethod
    def loads(cls, text: str) -> "Group":
        """Read what `dumps` wrote."""
        found = json.loads(text)
        return cls(
            number=found["number"],
            jobs=tuple(Job(**job) for job in found["jobs"]),
            wanted=frozenset(found["wanted"]),
        )


def equal(jobs: Sequence[Job], key: Callable[[Job], str]) -> Iterable[list[Job]]:
    """Return the jobs of each key, in the order in which the first of each comes."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(key(job), []).append(job)
    return found.values()


def batched(jobs: Sequence[Job], size: int) -> Iterator[tuple[Job, ...]]:
    """Cut jobs into parts of `size`, and what is left."""
    for start in range(0, len(jobs), size):
        yield tuple(jobs[start : start + size])
