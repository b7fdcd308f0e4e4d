"""What commands print: progress on a terminal, tables, JSON."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeprompt.core import Progress
    from freeprompt.core.loop import Callback

LABELS = {
    "invert": "inverting",
    "optimise": "optimising an embedding",
    "tune": "training",
    "source": "generating",
    "edit": "editing",
    "reconstruct": "checking the inversion",
}


def print_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    from freeprompt.images import finite

    print(json.dumps(finite(data), indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table; the last column wraps to the terminal's width."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(head):
        table.add_column(title, no_wrap=i + 1 < len(head), overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160  # a pipe has no width; do not cut what another program reads
    console.print(table)


@contextmanager
def progress(wanted: bool = True) -> Iterator["Callback"]:
    """Show a bar a phase on stderr if that is a terminal, and nothing otherwise."""
    if not wanted or not sys.stderr.isatty():
        yield lambda update: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    tasks: dict[str, TaskID] = {}
    with Bars(console=Console(stderr=True), transient=True) as bars:

        def advance(update: "Progress") -> None:
            if update.phase not in tasks:
                tasks[update.phase] = bars.add_task(LABELS[update.phase], total=update.steps)
            bars.update(tasks[update.phase], completed=update.step + 1)

        yield advance
