"""The work in order, on the disk and not in memory: jobs, their groups, what is done."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from types import TracebackType
from typing import Any, Self

from freeprompt.batch.jobs import MAX_GROUP, Group, Job, text_of
from freeprompt.errors import ConfigError
from freeprompt.images import finite

SCHEMA = """
CREATE TABLE jobs (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, row INTEGER NOT NULL,
    family TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, record TEXT,
    bad INTEGER NOT NULL DEFAULT 0);
CREATE TABLE families (
    place INTEGER PRIMARY KEY, family TEXT NOT NULL, number INTEGER NOT NULL DEFAULT 0);
"""


class Worklist:
    """All jobs of a manifest, in a private database that sqlite spills to the disk.

    Jobs that share an inversion are a family; a group is a few families that share batches.

    Args:
        jobs: In the order of the manifest.
        name: Of the manifest, for messages.
        together: Families of a group.

    Raises:
        ConfigError: for two jobs of one name, and whatever reading the jobs raises.
    """

    def __init__(self, jobs: Iterable[Job], name: str, together: int = 1):
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + SCHEMA)
        self._base.execute("BEGIN")
        try:
            for job in jobs:
                self._insert(job, name)
            self._base.execute(
                "INSERT INTO families (family) SELECT family FROM jobs GROUP BY family "
                "ORDER BY MIN(place)"
            )
            self._base.execute("UPDATE families SET number = (place - 1) / ?", (together,))
            self._base.execute("CREATE INDEX by_family ON jobs (family, place)")
            self._base.execute("CREATE INDEX by_name ON families (family)")
            self._base.execute("CREATE INDEX by_number ON families (number)")
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._base.close()

    def _insert(self, job: Job, name: str) -> None:
        body = text_of(job.to_dict())
        values = job.id, job.row, job.group_key(), job.key, body
        try:
            self._base.execute(
                "INSERT INTO jobs (id, row, family, key, body) VALUES (?, ?, ?, ?, ?)", values
            )
        except sqlite3.IntegrityError:
            found = self._base.execute("SELECT row FROM jobs WHERE id = ?", (job.id,)).fetchone()
            raise ConfigError(
                f"'{name}', row {job.row}, id: {job.id!r} is the name of row {found[0]} already. "
                "Every edit needs a name of its own; several targets of row x are x-0, x-1, ..."
            ) from None

    def __len__(self) -> int:
        return int(self._base.execute("SELECT COUNT(*) FROM jobs").fetchone()[0])

    @property
    def groups_in_all(self) -> int:
        """Number of groups before those of many targets are cut."""
        found = self._base.execute("SELECT MAX(number) FROM families").fetchone()[0]
        return 0 if found is None else int(found) + 1

    def number(self, record: dict[str, Any]) -> int | None:
        """Number of the group that a result belongs to.

        None if there is no such job, or it has changed since.
        """
        found = self._base.execute(
            "SELECT number FROM jobs JOIN families USING (family) WHERE id = ? AND key = ?",
            (record["id"], record["key"]),
        ).fetchone()
        return None if found is None else int(found[0])

    def note(self, record: dict[str, Any]) -> None:
        """Note the result of a job; the last picture holds, and no error replaces one."""
        self._base.execute(
            "UPDATE jobs SET record = ?1, bad = ?2 "
            "WHERE id = ?3 AND key = ?4 AND (record IS NULL OR bad OR NOT ?2)",
            (
                json.dumps(finite(record), ensure_ascii=False),  # as the journal has it
                bool(record["error"]),
                record["id"],
                record["key"],
            ),
        )

    def forget_errors(self, index: int = 0, of: int = 1) -> None:
        """Forget the errors of a shard, so that those edits are made again."""
        self._base.execute(
            "UPDATE jobs SET record = NULL, bad = 0 WHERE bad AND family IN "
            "(SELECT family FROM families WHERE number % ? = ?)",
            (of, index),
        )

    def errors(self, index: int = 0, of: int = 1) -> int:
        """Number of errors in a shard."""
        return self._count("bad", index, of)

    def _count(self, condition: str, index: int, of: int) -> int:
        query = (
            "SELECT COUNT(*) FROM jobs JOIN families USING (family) "
            f"WHERE {condition} AND number % ? = ?"
        )
        return int(self._base.execute(query, (of, index)).fetchone()[0])

    def left(self, index: int = 0, of: int = 1) -> int:
        """Number of jobs of a shard without a result."""
        return self._count("record IS NULL", index, of)

    def size(self, index: int = 0, of: int = 1) -> int:
        """Number of jobs of a shard."""
        return self._count("1", index, of)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the results that there are, in the order of the manifest."""
        query = "SELECT record FROM jobs WHERE record IS NOT NULL ORDER BY place"
        for (record,) in self._base.execute(query):
            yield json.loads(record)

    def groups(self, index: int = 0, of: int = 1) -> Iterator[Group]:
        """Yield the groups of one of `of` shards in which a result is missing.

        A group is the same whoever asks and whatever is done already. The list may be written to
        meanwhile: groups are found one after the other.
        """
        number = index
        total = self.groups_in_all
        while number < total:
            yield from self._group(number)
            number += of

    def _group(self, number: int) -> Iterator[Group]:
        rows = self._base.execute(
            "SELECT body, record IS NULL FROM jobs JOIN families USING (family) "
            "WHERE number = ? ORDER BY families.place, jobs.place",
            (number,),
        ).fetchall()
        for _, part in groupby(enumerate(rows), key=lambda pair: pair[0] // MAX_GROUP):
            members = [row for _, row in part]
            jobs = tuple(Job(**json.loads(body)) for body, _ in members)
            wanted = [job.id for job, (_, missing) in zip(jobs, members, strict=True) if missing]
            if wanted:
                yield Group(number=number, jobs=jobs, wanted=frozenset(wanted))
