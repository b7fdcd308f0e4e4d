"""A progress bar for work that is counted in pieces."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """How far work is."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def errors(self) -> int: ...


@contextmanager
def counter(label: str, wanted: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show how many pieces are done, on stderr if that is a terminal, and nothing otherwise.

    Args:
        label: What is going on.
        wanted: False shows nothing.
    """
    if not wanted or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)

        def tell(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield tell


@contextmanager
def progress(noun: str) -> Iterator[Callable[[Advance], None]]:
    """Show a bar on stderr if that is a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _lines(noun)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(noun)

        def advance(update: Advance) -> None:
            text = f"{noun}, {update.errors} errors" if update.errors else noun
            bars.update(task, completed=update.done, total=update.total, description=text)

        yield advance


def _lines(noun: str) -> Callable[[Advance], None]:
    """Say how far it is about fifty times in all."""

    def advance(update: Advance) -> None:
        every = max(1, update.total // 50)
        if update.done % every == 0 or update.done == update.total:
            errors = f", {update.errors} errors" if update.errors else ""
            print(f"{update.done} of {update.total} {noun}{errors}", file=sys.stderr, flush=True)

    return advance
