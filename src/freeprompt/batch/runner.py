"""The run: every edit of a manifest that is not there yet, by whichever engine; resumable."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from freeprompt import journal
from freeprompt.batch.engines.base import Engine, lost
from freeprompt.batch.engines.local import Local
from freeprompt.batch.manifest import Defaults, Reader
from freeprompt.batch.results import write_results
from freeprompt.batch.sinks import Folders, Sink, Tars, cut, verified
from freeprompt.batch.stopping import stoppable
from freeprompt.batch.store import Reserve, Store
from freeprompt.batch.worker import Finished, Made, Setup
from freeprompt.batch.worklist import Worklist
from freeprompt.errors import ConfigError, SaveError, unknown

FORMATS = ("folders", "wds")
CHECKS = ("hash", "size", "none")
ROUNDS = 3  # how often groups are handed out again of which an engine brought nothing back
FULL = 10  # groups one after the other that could not be written: the disk stays full
SYNC = 1.0  # seconds between two waits for the disk
_ADDRESS = re.compile(r"[A-Za-z0-9+]{2,}:/")  # such as s3://bucket, of which Path keeps one slash


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to do.

    Attributes:
        manifest: File or address.
        out: Folder of the results.
        setup: What a worker needs; its `root` is set from here.
        defaults: What holds where a row says nothing.
        root: Where pictures lie, if not where the manifest does.
        engine: Who makes the edits.
        index: Which shard this is, from 0.
        of: How many shards there are.
        format: `folders` or `wds`.
        together: How many images a group has, whose edits may share batches; 0 for as many as when
            the run began, or `TOGETHER`.
        retry: Whether edits that ended in an error are made again.
        verify: How finished edits are checked: `hash`, `size` or `none`.
        command: How to call this again, for people.
    """

    manifest: str
    out: Path
    setup: Setup
    defaults: Defaults = field(default_factory=Defaults)
    root: str | None = None
    engine: Engine = field(default_factory=Local)
    index: int = 0
    of: int = 1
    format: str = "folders"
    together: int = 0
    retry: bool = False
    verify: str = "hash"
    command: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise unknown(ConfigError, "format", self.format, FORMATS)
        if self.verify not in CHECKS:
            raise unknown(ConfigError, "way to verify", self.verify, CHECKS)
        if self.together < 0:
            raise ConfigError(f"together must be 0 or more; got {self.together}.")
        if _ADDRESS.match(str(self.out)):
            raise ConfigError(
                f"Results are written to a folder of a disk; got {str(self.out)!r}. Name one, and "
                "copy it to where it shall be afterwards."
            )
        if not 0 <= self.index < self.of:
            raise ConfigError(
                f"A shard is one of 0 to {self.of - 1}, that is --of minus one; got {self.index}."
            )


@dataclass(frozen=True, kw_only=True)
class Advance:
    """How far a run is: edits done, edits there will be, those of them with errors."""

    done: int
    total: int
    errors: int


Report = Callable[[Advance], None]


def run(asked: Run, report: Report | None = None) -> Advance:
    """Make every edit of a manifest that is not there yet.

    A run that was stopped or killed goes on where it was: call this again.

    Args:
        asked: What to do.
        report: Called once at the beginning and after every group.

    Returns:
        How far it came.

    Raises:
        ConfigError: for a manifest that cannot be used, naming row and field, before any model is
            loaded; or for a folder of other results.
        ModelError: if the model cannot be loaded.
        SaveError: if results cannot be written any more.
        Stopped: on Ctrl-C or SIGTERM; what is finished is there.
    """
    with stoppable(), ExitStack() as stack:
        reader = Reader(asked.manifest, asked.defaults, asked.root)
        together = Store(asked.out).together(asked.together)
        work = stack.enter_context(Worklist(reader.jobs(), asked.manifest, together))
        keeper = stack.enter_context(_keeping(asked, work, report or (lambda advance: None)))
        setup = replace(asked.setup, root=reader.root.base, batch=keeper.batch)
        left = work.left(asked.index, asked.of)
        if left:
            with asked.engine.working(setup, left) as hands:
                for _ in range(ROUNDS):
                    for finished in hands.finished(work.groups(asked.index, asked.of)):
                        keeper.keep(finished)
                    if not work.left(asked.index, asked.of):
                        break
            for group in work.groups(asked.index, asked.of):
                keeper.keep(lost(group, f"ModelError: its worker died {ROUNDS} times."))
        keeper.finish()
        return keeper.advance


@contextmanager
def _keeping(asked: Run, work: Worklist, report: Report) -> Iterator["Keeper"]:
    """Open the folder of the run for this shard, look what is done, and close it in the end."""
    store = Store(asked.out)
    path = store.part(asked.index, asked.of)
    with journal.writing(path) as lines:
        ends = _recall(asked, store, work)
        sink: Sink = Folders(asked.out, path.stem)
        if asked.format == "wds":
            mine = {name: end for name, end in ends.items() if f"/{path.stem}-" in name}
            sink = Tars(asked.out, path.stem, mine)
            for name, end in ends.items():
                if f"-of-{asked.of:05}-" not in name:  # of shards that nobody goes on with
                    cut(asked.out / name, end)
        reserve = Reserve(path.with_name(f".reserve-{path.stem}"))
        reserve.take()
        try:
            yield Keeper(asked, store, work, lines, sink, reserve, report)
        finally:
            sink.close()
            reserve.give()


def _recall(asked: Run, store: Store, work: Worklist) -> dict[str, int]:
    """Tell the worklist what is done and still there; return where tars end."""
    ends: dict[str, int] = {}
    for record in store.records():
        if "end" in record:
            ends[record["file"]] = max(ends.get(record["file"], 0), record["end"])
        number = work.number(record)
        if number is None:
            continue
        others = number % asked.of != asked.index  # they look after their own
        if others or record["error"] or verified(asked.out, record, asked.verify):
            work.note(record)
    if asked.retry:
        work.forget_errors(asked.index, asked.of)
    return ends


class Keeper:
    """Writes what engines bring back: the picture, then the journal, then tells of it."""

    def __init__(
        self,
        asked: Run,
        store: Store,
        work: Worklist,
        lines: journal.Journal,
        sink: Sink,
        reserve: Reserve,
        report: Report,
    ):
        self._asked, self._store, self._work = asked, store, work
        self._lines, self._sink, self._reserve, self._report = lines, sink, reserve, report
        shard = asked.index, asked.of
        total, errors = work.size(*shard), work.errors(*shard)
        self.advance = Advance(done=total - work.left(*shard), total=total, errors=errors)
        self._about: dict[str, Any] = store.about() if store.begun else {}
        if self._about.get("format", asked.format) != asked.format:
            store.begin({"format": asked.format})  # says what differs
        self._checked: set[str] = set()
        self._unwritten, self._why = 0, ""
        self._before, self._synced = time.monotonic(), 0.0
        report(self.advance)

    @property
    def batch(self) -> int:
        """Batch size: as asked for, or as it was when the run began, or 0 for by memory."""
        return int(self._asked.setup.batch or self._about.get("batch", 0))

    def keep(self, finished: Finished) -> None:
        """Write a group."""
        self._begin(finished)
        records = [self._written(made) for made in finished.made]
        self._count_unwritten(finished, records)
        self._commit(records)
        wrong = 0
        for record in records:
            self._work.note(record)
            wrong += bool(record["error"])
        self.advance = Advance(
            done=self.advance.done + len(records),
            total=self.advance.total,
            errors=self.advance.errors + wrong,
        )
        self._report(self.advance)
        if self._unwritten >= FULL:
            raise SaveError(f"The last {FULL} groups could not be written: {self._why}")

    def _begin(self, finished: Finished) -> None:
        """Write run.json with the first result; refuse a worker that is unlike the others."""
        about = dict(finished.about)
        if not about or repr(about) in self._checked:
            return
        asked = self._asked
        self._store.begin(
            {
                **about,
                "format": asked.format,
                "together": self._store.together(asked.together),
                "manifest": asked.manifest,
                "edits": len(self._work),
                "engine": asked.engine.name,
                "commands": [asked.command] if asked.command else [],
            }
        )
        self._checked.add(repr(about))

    def _written(self, made: Made) -> dict[str, Any]:
        if made.png is None:
            return made.record
        try:
            return {**made.record, **self._sink.put(made.record, made.png)}
        except SaveError as error:
            return {**made.record, "error": f"SaveError: {error}"}

    def _count_unwritten(self, finished: Finished, records: Sequence[Mapping[str, Any]]) -> None:
        """Count groups one after the other of which no picture could be written."""
        tried = [r["error"] for m, r in zip(finished.made, records, strict=True) if m.png]
        if tried and all(tried):
            self._unwritten, self._why = self._unwritten + 1, tried[-1]
        elif tried:
            self._unwritten = 0

    def _commit(self, records: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        line = {"took": round(now - self._before, 4), "rows": records}
        sync = now - self._synced > SYNC
        self._before, self._synced = now, now if sync else self._synced
        try:
            self._lines.append(line, sync=sync)
        except SaveError:
            if not self._reserve.give():
                raise
            self._lines.append(line, sync=sync)

    def finish(self) -> None:
        """Write the results, if no edit of any shard is left."""
        if self._asked.of > 1:
            for record in self._store.records():  # what the other shards have done meanwhile
                number = self._work.number(record)
                if number is not None and number % self._asked.of != self._asked.index:
                    self._work.note(record)
        if not self._work.left():
            self._reserve.give()
            part = self._store.part(self._asked.index, self._asked.of).stem
            write_results(self._asked.out, self._work.records(), part)
