"""Edits made in this process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from freeprompt.batch.jobs import Group
from freeprompt.batch.worker import Finished, Setup, Worker


class Local:
    """This process, one group after the other."""

    name = "local"

    @contextmanager
    def working(self, setup: Setup, groups: int) -> Iterator["_Here"]:
        """Load the model here."""
        yield _Here(Worker(setup))


class _Here:
    def __init__(self, worker: Worker):
        self._worker = worker

    def finished(self, groups: Iterable[Group]) -> Iterator[Finished]:
        return map(self._worker.finished, groups)
