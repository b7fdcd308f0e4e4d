"""Edits made by several processes of this machine."""

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from freeprompt.batch.engines.base import lost
from freeprompt.batch.jobs import Group
from freeprompt.batch.worker import Finished, Setup, Worker
from freeprompt.errors import ModelError

TRIES = 3  # of a group whose worker dies; then it is reported and left
DIED = f"ModelError: its process was killed {TRIES} times, perhaps for its memory."


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Several processes, each with a model of its own; on cuda they take the devices in turn.

    Attributes:
        processes: How many.
    """

    processes: int
    name = "pool"

    @contextmanager
    def working(self, setup: Setup, groups: int) -> Iterator["_Hands"]:
        """Start the processes when the first group comes, and end them whatever happens."""
        count = max(1, min(self.processes, groups))
        hands = _Hands(replace(setup, threads=setup.threads or _threads(count)), count)
        try:
            yield hands
        finally:
            hands.end()


class _Hands:
    def __init__(self, setup: Setup, count: int):
        self._setup, self._count = setup, count
        self._others = set(mp.active_children())
        self._pool: ProcessPoolExecutor | None = None
        self._lived = False

    def finished(self, groups: Iterable[Group]) -> Iterator[Finished]:
        """Yield what is finished; a few more groups are handed out than are being made.

        When a process dies, all that were handed out are made again, one at a time, so that the
        group that kills its process is known from those that happened to be beside it.
        """
        queue, waiting = iter(groups), dict[Future[Finished], Group]()
        while True:
            for group in islice(queue, self._count + 1 - len(waiting)):
                waiting[self._submit(group)] = group
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            suspects = []
            for future in done:
                group = waiting.pop(future)
                try:
                    found = future.result()
                except BrokenProcessPool:
                    suspects.append(group)
                    continue
                self._lived = True
                yield found
            if suspects:
                suspects += waiting.values()
                waiting.clear()
                self.end()
                yield from self._alone(suspects)

    def _alone(self, suspects: list[Group]) -> Iterator[Finished]:
        for group in suspects:
            found = self._tried(group)
            if found is None and not self._lived:
                raise ModelError(
                    "Processes were killed before they made anything, perhaps for their memory. "
                    "Give fewer --processes, or a smaller model."
                )
            self._lived = True
            yield found or lost(group, DIED)

    def _tried(self, group: Group) -> Finished | None:
        """Make a group while nothing else is made; None if its process dies every time."""
        for _ in range(TRIES - 1):
            try:
                return self._submit(group).result()
            except BrokenProcessPool:
                self.end()
        return None

    def _submit(self, group: Group) -> Future[Finished]:
        if self._pool is None:
            self._pool = self._started()
        try:
            return self._pool.submit(_make, group)
        except BrokenProcessPool as error:
            broken: Future[Finished] = Future()
            broken.set_exception(error)
            return broken

    def _started(self) -> ProcessPoolExecutor:
        context = mp.get_context("spawn")
        devices = context.SimpleQueue()
        for device in _devices(self._setup.device, self._count):
            devices.put(device)
        return ProcessPoolExecutor(
            self._count, mp_context=context, initializer=_start, initargs=(self._setup, devices)
        )

    def end(self) -> None:
        """End the processes now; what they were making is not wanted any more."""
        if self._pool is None:
            return
        for process in set(mp.active_children()) - self._others:
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _threads(processes: int) -> int:
    return max(1, torch.get_num_threads() // processes)


def _devices(device: str, count: int) -> list[str]:
    """Return a device for each process."""
    found = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return [f"cuda:{i % found}" if found > 1 else device for i in range(count)]


_WORKER: Worker | Exception | None = None


def _start(setup: Setup, devices: Any) -> None:
    """Load the model in a new process; what goes wrong is kept for whoever asks."""
    global _WORKER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the one who hands out the work
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _WORKER = Worker(replace(setup, device=devices.get()))
    except Exception as error:
        _WORKER = error


def _end_with_parent() -> None:
    """Leave no process behind when the one who hands out the work is killed."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(group: Group) -> Finished:
    if isinstance(_WORKER, Exception):
        raise _WORKER
    if _WORKER is None:
        raise ModelError("This process was not started by a pool.")
    return _WORKER.finished(group)
