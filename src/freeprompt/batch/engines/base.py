"""What an engine is."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from freeprompt.batch.jobs import Group
from freeprompt.batch.worker import Finished, Made, Setup, failed


class Hands(Protocol):
    """An engine at work."""

    def finished(self, groups: Iterable[Group]) -> Iterator[Finished]:
        """Make every group and yield what came of it, in any order, as it is finished.

        Groups are taken from the iterable only when there is somebody to make them.
        """


class Engine(Protocol):
    """Who makes the edits.

    Attributes:
        name: How messages call it.
    """

    name: str

    def working(self, setup: Setup, groups: int) -> AbstractContextManager[Hands]:
        """Get ready, and give everything back in the end, also after an exception.

        Args:
            setup: What a worker needs.
            groups: How many groups there will be.
        """


def lost(group: Group, why: str) -> Finished:
    """Return the records of a group whose worker died again and again."""
    return Finished(tuple(Made(failed(j, why)) for j in group.jobs if j.id in group.wanted))
