"""The run: every contender on every item, in as many processes as asked, resumable."""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from freeprompt.api.defaults import own_layers
from freeprompt.bench import worker
from freeprompt.bench.contenders import Contender, distinct
from freeprompt.bench.emojiedit import load_thresholds
from freeprompt.bench.items import Dataset, Item
from freeprompt.bench.plan import Plan
from freeprompt.bench.store import Row, Store
from freeprompt.errors import ModelError
from freeprompt.models.defaults import defaults_by_name


@dataclass(frozen=True, kw_only=True)
class Job:
    """One edit to be made, and the name of its row."""

    item: Item
    contender: Contender
    key: str


@dataclass(frozen=True, kw_only=True)
class Advance:
    """How far a run is: rows there are, rows there will be, rows with errors, the newest row."""

    done: int
    total: int
    errors: int
    row: Row | None


Report = Callable[[Advance], None]


def _key(plan: Plan, data: Dataset, item: Item, contender: Contender) -> str:
    """Name a row by all that it depends on; layers that are the model's own among it."""
    usual = defaults_by_name(plan.model)
    layers = own_layers(usual, contender.method, contender.parameters)
    return contender.key(
        data.name, item.id, plan.model, list(plan.data.traps), *([layers] if layers else [])
    )


def jobs(plan: Plan, data: Dataset) -> list[Job]:
    """List every edit of a plan, item by item, so that a part of a run compares like with like."""
    per_track = {track: distinct(plan.contenders, track) for track in ("generated", "real")}
    return [
        Job(item=item, contender=c, key=_key(plan, data, item, c))
        for item in data.items
        for c in per_track[item.track]
        if c.method != "ideal" or hasattr(item, "ideal")
    ]


def run(plan: Plan, folder: Path, *, retry: bool = False, report: Report | None = None) -> Store:
    """Make and score every edit of a plan that is not there yet.

    A run that was killed goes on where it was: give it the same folder.

    Args:
        plan: What to do.
        folder: Where results go; `rows.jsonl`, `run.json` and `pictures`.
        retry: Whether edits that ended in an error are made again.
        report: Called once at the beginning and after every edit.

    Returns:
        The results.

    Raises:
        ConfigError: for a plan that does not fit its data, or a folder of other results.
        ModelError: if the model cannot be loaded, or a process was killed.
        SaveError: if results cannot be written.
    """
    data, store = plan.data.load(), Store(folder)
    every = jobs(plan, data)
    there = store.done(retry=retry)
    left = [job for job in every if job.key not in there]
    tell = report or (lambda advance: None)
    count = len(every) - len(left)
    errors = 0
    tell(Advance(done=count, total=len(every), errors=0, row=None))
    if not left:
        return store
    with store.writing() as writer, _hands(plan, folder, len(left)) as hands:
        store.begin({**hands.about(), **_about(plan, data)})
        for row in hands.rows(left):
            writer.append(row)
            count, errors = count + 1, errors + bool(row["error"])
            tell(Advance(done=count, total=len(every), errors=errors, row=row))
    return store


def _about(plan: Plan, data: Dataset) -> dict[str, Any]:
    thresholds = vars(load_thresholds(_manifest(plan))) if plan.data.name == "emojiedit" else {}
    return {
        "dataset": data.name,
        "notes": [*data.notes, *plan.notes],
        "traps": list(plan.data.traps),
        "thresholds": thresholds,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {platform.system()}",
        "processes": plan.processes,
        "metrics": dict(plan.metrics),
        "commands": [command_line()],
    }


def command_line() -> str:
    """How this process was called, ready to be typed again."""
    name = Path(sys.argv[0]).name
    called = ["python", "-m", "freeprompt"] if name == "__main__.py" else [name]
    return shlex.join([*called, *sys.argv[1:]])


def _manifest(plan: Plan) -> Path | None:
    return plan.data.path if plan.data.name == "emojiedit" else None


class _Here:
    """Edits made in this process."""

    def __init__(self, setup: worker.Setup):
        self._worker = worker.Worker(setup)

    def about(self) -> dict[str, Any]:
        return self._worker.about()

    def rows(self, left: Iterable[Job]) -> Iterator[Row]:
        for job in left:
            yield self._worker.row(job.item, job.contender, job.key)


class _Pool:
    """Edits made in other processes."""

    def __init__(self, pool: ProcessPoolExecutor, processes: int):
        self._pool, self._processes = pool, processes

    def about(self) -> dict[str, Any]:
        return self._pool.submit(worker.about).result()

    def rows(self, left: Iterable[Job]) -> Iterator[Row]:
        """Yield rows as they are finished; a few more jobs are handed out than are being done."""
        waiting, queue = set[Future[Row]](), iter(left)
        while True:
            for job in islice(queue, 2 * self._processes - len(waiting)):
                waiting.add(self._pool.submit(worker.row, job.item, job.contender, job.key))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)


@contextmanager
def _hands(plan: Plan, folder: Path, count: int) -> Iterator[_Here | _Pool]:
    """Whoever makes the edits: this process, or several others."""
    processes = min(plan.processes, count)
    setup = worker.Setup(
        model=plan.model,
        device=plan.device,
        dtype=plan.dtype,
        metrics=dict(plan.metrics),
        thresholds=load_thresholds(_manifest(plan)),
        pictures=folder / "pictures" if plan.keep_pictures else None,
        threads=1 if processes > 1 else 0,
    )
    if processes == 1:
        yield _Here(setup)
        return
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=worker.start, initargs=(setup,)
    )
    try:
        yield _Pool(pool, processes)
    except BrokenProcessPool as error:
        raise ModelError(
            "A process of the run was killed, perhaps for its memory. Nothing that was finished is "
            "lost: give the same command again, with fewer processes if it was memory."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
