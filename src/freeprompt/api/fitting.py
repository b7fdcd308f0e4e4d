"""Doing an edit with the memory there is, and stepping down when it runs out."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import torch

from freeprompt.core import Rows
from freeprompt.core.rows import PAIR
from freeprompt.errors import FreepromptWarning, OutOfMemory
from freeprompt.methods import Method, Outcome, Task
from freeprompt.models import UNetModel
from freeprompt.models.chunks import fused
from freeprompt.models.memory import free_bytes, pass_bytes, ran_out, release, weight_bytes
from freeprompt.models.offload import ACCELERATORS, offloaded, offloading

T = TypeVar("T")
SHARE = 0.8  # of the free memory that a pass is planned to fill
CHUNK_MIB = 256  # of attention scores, when stepping down to chunks


@dataclass(frozen=True)
class RanOut:
    """What was said when memory ran out. The error itself would keep the tensors alive."""

    said: str


@dataclass(frozen=True)
class Relief:
    """One way to need less memory.

    Attributes:
        told: What was done, for the note.
        flag: What does it from the start, for the note.
        enter: Puts it into effect for the length of a with-block.
    """

    told: str
    flag: str
    enter: Callable[[UNetModel], AbstractContextManager[None]]


class Fitting:
    """Runs the parts of one edit. A part that runs out of memory is begun again with less.

    First fewer targets go side by side, down to one; then, where torch has no fused attention,
    its scores are bounded; then whole parts of the model wait on the CPU until they are used, then
    single layers. The model is restored after every part. Each step is told once, as a warning and
    as a note for the provenance.

    Args:
        model: The model; `model.memory` says what was chosen.

    Attributes:
        notes: What was done to fit.
    """

    def __init__(self, model: UNetModel):
        self.model = model
        self.notes: list[str] = []
        self._taken: list[Relief] = []
        self._left = list(_reliefs(model)) if model.memory.step_down else []

    def part(self, work: Callable[[], T]) -> T:
        """Do something that cannot be divided.

        Raises:
            OutOfMemory: if nothing is left to try.
        """
        while isinstance(done := self._tried(work), RanOut):
            self._relieve(done)
        return done

    def edit(self, how: Method, task: Task) -> Outcome:
        """Call a method, for as many of its targets at a time as fit.

        Every target of a method is independent of the others; the source is denoised again for
        every group where the method needs it in the batch.

        Raises:
            OutOfMemory: if one target is too much, and nothing is left to try.
        """
        size, done = self._planned(task), list[Outcome]()
        while task.targets:
            group = replace(task, targets=task.targets[:size])
            made = self._tried(partial(how, self.model, group))
            if isinstance(made, RanOut):
                size = self._less(len(group.targets), made)
                continue
            done.append(made)
            task = replace(task, targets=task.targets[size:])
        return joined(done)

    def _tried(self, work: Callable[[], T]) -> T | RanOut:
        with ExitStack() as undo:
            try:
                for relief in self._taken:
                    undo.enter_context(relief.enter(self.model))
                return work()
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                out = RanOut(next(iter(str(error).splitlines()), type(error).__name__))
        release(self.model.device)
        return out

    def _planned(self, task: Task) -> int:
        """Return how many targets to begin with."""
        count, chosen = len(task.targets), self.model.memory.at_once
        if chosen:
            return chosen
        fit = fitting(self.model, task)
        if fit is None or fit >= count:
            return count
        self._note(
            f"The {count} targets were denoised {fit} at a time: more were estimated not to fit "
            f"into the free memory. --at-once {fit} (at_once={fit}) says so from the start."
        )
        return fit

    def _less(self, size: int, out: RanOut) -> int:
        """Return how many targets to try next."""
        if size == 1 or not self.model.memory.step_down:
            self._relieve(out)
            return size
        size //= 2
        self._note(
            f"Memory ran out ({out.said}); the targets were denoised {size} at a time. "
            f"--at-once {size} (at_once={size}) begins with that."
        )
        return size

    def _relieve(self, out: RanOut) -> None:
        if not self._left:
            raise OutOfMemory(
                f"{self.model.name!r} does not fit into the memory of {self.model.device}: "
                f"{out.said} {self._advice()}"
            )
        relief = self._left.pop(0)
        self._taken.append(relief)
        self._note(f"Memory ran out ({out.said}); {relief.told}. {relief.flag} begins with that.")

    def _advice(self) -> str:
        memory = self.model.memory
        more = [] if memory.step_down else ["step_down=True"]
        more += ["a smaller --width and --height, or a smaller picture"]
        more += ["--dtype float16 or bfloat16"] if self.model.dtype == torch.float32 else []
        more += [] if memory.vae_tiling else ["--vae-tiling"]
        if self.model.device.type in ACCELERATORS and find_spec("accelerate") is None:
            more += ['--offload sequential, after pip install "freeprompt[offload]"']
        return f"What may help: {'; '.join(more)}."

    def _note(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, FreepromptWarning, stacklevel=5)


def fitting(model: UNetModel, task: Task) -> int | None:
    """Estimate how many targets go side by side; None where the free memory is not known."""
    free = free_bytes(model.device)
    if free is None:
        return None
    unet = model.pipe.unet
    here = next(unet.parameters()).device.type == model.device.type
    free -= 0 if here or offloading(model.pipe) == "sequential" else weight_bytes(unet)
    height, width = task.start.shape[-2:]
    row = pass_bytes(unet, 1, height, width, model.dtype)
    rows = int(SHARE * free / row)
    layout: Rows = PAIR.without(half="uncond") if task.guidance <= 1 else PAIR
    return max(1, (rows - len(layout.sources())) // len(layout.targets()))


def joined(parts: list[Outcome]) -> Outcome:
    """Return the outcome of all targets from those of groups of them."""
    if len(parts) == 1:
        return parts[0]
    edited = dict.fromkeys(pair for part in parts for pair in part.edited)
    return replace(
        parts[0],
        targets=torch.cat([part.targets for part in parts]),
        edited=tuple(edited),
        acted=any(part.acted for part in parts),
    )


def _reliefs(model: UNetModel) -> Iterator[Relief]:
    """Yield what can be done beyond fewer targets, the cheapest first."""
    device, now = model.device, offloading(model.pipe)
    if not model.memory.attention_mib and not _fused(model):
        yield Relief(
            f"attention scores were bounded to {CHUNK_MIB} MiB",
            f"--attention-mib {CHUNK_MIB} (attention_mib={CHUNK_MIB})",
            _chunks,
        )
    if device.type not in ACCELERATORS or find_spec("accelerate") is None or model.memory.compile:
        return
    if now == "none":
        yield _offload("model", "parts of the model waited on the CPU until they were used")
    if now in ("none", "model"):
        yield _offload("sequential", "layers of the model waited on the CPU until they were used")


def _offload(how: str, told: str) -> Relief:
    flag = f"--offload {how} (offload={how!r})"
    return Relief(told, flag, lambda model: offloaded(model.pipe, how))


@contextmanager
def _chunks(model: UNetModel) -> Iterator[None]:
    before = model.memory
    model.memory = replace(before, attention_mib=CHUNK_MIB)
    try:
        yield
    finally:
        model.memory = before


def _fused(model: UNetModel) -> bool:
    one = torch.zeros(1, 1, 8, 64, device=model.device, dtype=model.dtype)
    return fused(one, one, one, is_causal=False)
