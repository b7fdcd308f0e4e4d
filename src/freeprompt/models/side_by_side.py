"""Several edits of one model at a time, which share its batches and know nothing of each other.

Each edit runs in a thread of its own, but only one of them runs at any time: until it asks for an
evaluation of the denoiser, or ends. When all that are left have asked, what they asked for is
evaluated in as few batches as there are kinds of it, by the thread that called. So who shares a
batch does not depend on time, and nothing is ever computed by two threads at once.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from freeprompt.core import Run, Runs
from freeprompt.models.passes import Pass
from freeprompt.models.seam import attach_several, in_use
from freeprompt.models.unet import UNetModel

T = TypeVar("T")
Turn = Literal["caller", "lane", "nobody"]


class Abandoned(BaseException):
    """Unwinds an edit whose result nobody waits for any more."""


@dataclass
class Ended(Generic[T]):
    """How an edit ended: with a result or an error.

    Attributes:
        result: What it returned, if it did.
        error: What it raised, if it did.
    """

    result: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


def side_by_side(
    model: UNetModel, edits: Sequence[Callable[[UNetModel], T]]
) -> tuple[Ended[T], ...]:
    """Run several edits of a model so that they share its batches.

    Args:
        model: The model; it is attached to as long as this takes.
        edits: Called with a model of their own, which is the given one in all but who evaluates it.

    Returns:
        How each ended; an error of one does not disturb the others.

    Raises:
        AlreadyAttached: if the model is editing right now.
    """
    with attach_several(model.pipe.unet, model.sites, model.name) as runs:
        lanes: list[_Lane[T]] = []
        try:
            for edit in edits:
                lanes.append(_Lane(model, edit, runs))
            while waiting := [lane for lane in lanes if lane.resume()]:
                _answer(model, runs, waiting)
        finally:
            for lane in lanes:
                lane.abandon()
    model.sample_forwards += sum(lane.model.sample_forwards for lane in lanes)
    return tuple(lane.ended for lane in lanes)


class _Lane(Generic[T]):
    """One edit in its thread; it and the thread that made it take turns."""

    def __init__(self, model: UNetModel, edit: Callable[[UNetModel], T], runs: Runs):
        self.ended: Ended[T] = Ended()
        self.asked: Pass | None = None
        self.answer: Tensor | BaseException | None = None
        self.run: Run | None = None
        self.model, self._edit, self._runs = model.beside(self), edit, runs
        self._gradients = torch.is_grad_enabled()
        self._turn: Turn = "caller"
        self._turned = threading.Condition()
        self._thread = threading.Thread(target=self._live, name="freeprompt-lane", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether the edit has ended, so that nothing more is evaluated for it."""
        return self._turn == "nobody"

    def resume(self) -> bool:
        """Let it run until it asks for something or ends; return whether it asked."""
        if self._turn == "caller":
            self._pass_to("lane")
            self._wait_while("lane")
        return self._turn == "caller"

    def abandon(self) -> None:
        """End it if it has not ended, unwinding what it is in the middle of."""
        self._wait_while("lane")  # the caller may have been interrupted while it was its turn
        while self._turn == "caller":
            self.answer = Abandoned()
            self.resume()
        self._thread.join()

    def _pass_to(self, turn: Turn) -> None:
        with self._turned:
            self._turn = turn
            self._turned.notify_all()

    def _wait_while(self, turn: Turn) -> None:
        with self._turned:
            self._turned.wait_for(lambda: self._turn != turn)

    def _live(self) -> None:
        try:
            self._wait_for_answer()
            with torch.set_grad_enabled(self._gradients):
                self.ended.result = self._edit(self.model)
        except Abandoned:
            pass
        except BaseException as error:  # a thread that swallowed it would look like success
            self.ended.error = error
        finally:
            self._pass_to("nobody")

    def _wait_for_answer(self) -> Tensor | None:
        self._wait_while("caller")
        answer, self.asked, self.answer = self.answer, None, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def evaluate(self, asked: Pass) -> Tensor:
        """Return the denoiser's answer, evaluated together with what the others ask for.

        What is to be differentiated is evaluated alone: its graph belongs to this thread.
        """
        if torch.is_grad_enabled():
            with self._runs.at([(self.run, len(asked))], asked.size):
                return self.model.evaluate(asked)
        self.asked = asked
        self._pass_to("caller")
        answer = self._wait_for_answer()
        assert answer is not None
        return answer

    @contextmanager
    def attach(self, run: Run) -> Iterator[Run]:
        """Let a run's controls act on this lane's rows, for the length of a with-block."""
        if self.run is not None:
            raise in_use(self.model.name)
        self.run = run
        try:
            yield run
        finally:
            self.run = None
        run.finish()


def _answer(model: UNetModel, runs: Runs, lanes: Sequence[_Lane[T]]) -> None:
    """Evaluate what the lanes ask for, those of a kind together."""
    for alike in _alike(lanes):
        try:
            answers = _evaluated(model, runs, alike)
        except Exception as error:  # it is theirs: too little memory, mostly
            for lane in alike:
                lane.answer = error.with_traceback(None)  # its frames hold tensors
            continue
        for lane, answer in zip(alike, answers, strict=True):
            lane.answer = answer


def _alike(lanes: Sequence[_Lane[T]]) -> Iterable[list[_Lane[T]]]:
    kinds: dict[str, list[_Lane[T]]] = {}
    for lane in lanes:
        assert lane.asked is not None
        kinds.setdefault(lane.asked.kind, []).append(lane)
    return kinds.values()


@torch.no_grad()
def _evaluated(model: UNetModel, runs: Runs, lanes: Sequence[_Lane[T]]) -> tuple[Tensor, ...]:
    asked = [lane.asked for lane in lanes if lane.asked is not None]
    whole = asked[0] if len(asked) == 1 else Pass.joined(asked)
    shares = [(lane.run, len(one)) for lane, one in zip(lanes, asked, strict=True)]
    with runs.at(shares, whole.size):
        return torch.split(model.evaluate(whole), [len(one) for one in asked])
