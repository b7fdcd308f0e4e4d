"""What the benchmarks share: interleaved CPU times, peak allocation, counted work, tables."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces itself otherwise

Work = Callable[[], object]
Times = Mapping[str, Sequence[float]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return made


def one_thread() -> None:
    """Compute on one thread: beside a busy neighbour, two are slower than one."""
    torch.set_num_threads(1)


def cpu_times(
    contenders: Mapping[str, Work], repeats: int, *, runs: int = 1, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measure seconds of CPU time, `repeats` figures a contender.

    The contenders take turns and the one that begins changes, so that whatever else the machine
    does falls on all of them alike. CPU time leaves out the moments in which another process ran.

    Args:
        contenders: What to run, by name.
        repeats: Rounds; in each, every contender has its turn.
        runs: How often a contender runs in a turn; more than once for what takes microseconds.
        warm_up: Whether to run each once before.
    """
    if warm_up:
        for work in contenders.values():
            work()
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(cpu_time(contenders[name], runs))
    return times


def cpu_time(work: Work, runs: int = 1) -> float:
    """Return the seconds of CPU time that `runs` runs take."""
    began = time.process_time()
    for _ in range(runs):
        work()
    return time.process_time() - began


@dataclass(frozen=True)
class Ratio:
    """How much longer one takes than the other: the median over the rounds, and its range."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, times: Times, one: str, other: str) -> "Ratio":
        """Divide the times of `one` by those of `other`, round by round."""
        found = [a / b for a, b in zip(times[one], times[other], strict=True)]
        return cls(median(found), min(found), max(found))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.middle:.2f}"
        return f"{self.middle:.2f} ({self.low:.2f} – {self.high:.2f})"


def peak_bytes(work: Work) -> int:
    """Return the most memory that tensors held at one time during `work`, beyond what was there.

    Torch's profiler reports every allocation and release of the CPU allocator, also those inside
    a kernel (which a `TorchDispatchMode` does not see). Their running sum is exact and the same on
    every run, unlike the process's resident size, which depends on the C library's reuse of pages
    and on everything that ran before.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    results: Any = found.profiler
    events = results.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in memory:
        held += change
        peak = max(peak, held)
    return peak


def weight_bytes(*modules: torch.nn.Module) -> int:
    """Return the memory that the parameters and buffers of modules hold."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass
class Counter:
    """Number of samples that a network has evaluated."""

    samples: int = 0


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[Counter]:
    """Count the samples that pass through a network, whoever calls it."""
    counter = Counter()

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counter.samples += len(args[0] if args else kwargs["sample"])

    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counter
    finally:
        handle.remove()


def mebibytes(count: float) -> str:
    """Return bytes as text in MiB."""
    size = count / 2**20
    return f"{size:.0f} MiB" if size >= 10 else f"{size:.1f} MiB"


@dataclass
class Report:
    """Tables on the way to the screen and to a JSON file."""

    data: dict[str, Any] = field(default_factory=lambda: {"setting": setting()})

    def add(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a markdown table, one row a mapping from column to value, and keep it."""
        print(f"\n**{title}**\n\n{table(rows)}", flush=True)
        self.data[title] = [{k: _plain(v) for k, v in row.items()} for row in rows]

    def write(self, path: Path | None) -> None:
        """Write everything as JSON, if there is a path."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in r.values()] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def setting() -> dict[str, Any]:
    """Return what the figures depend on and a reader may know."""
    packages = {name: version(name) for name in ("freeprompt", "torch", "diffusers")}
    return {"python": platform.python_version(), "threads": torch.get_num_threads(), **packages}


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Ratio) else value
