"""One evaluation of the denoiser as a value, and several of them as one."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from freeprompt.core import Run


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What the denoiser is called with.

    Attributes:
        sample: Latents, and the channels that it takes beside them, (batch, channels, h, w).
        timestep: Noise level; one for all rows, or one a row.
        states: Encoded prompts, (batch, tokens, width).
        given: Its other keyword arguments: tensors with one entry a row, also nested.
    """

    sample: Tensor
    timestep: Tensor
    states: Tensor
    given: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        return self.sample.shape[-2], self.sample.shape[-1]

    @property
    def kind(self) -> str:
        """Passes of the same kind can be evaluated as one."""
        given = (self.sample, self.states, dict(self.given))
        return repr(_layout(given, len(self)))

    @staticmethod
    def joined(several: "Sequence[Pass]") -> "Pass":
        """Return one pass of the rows of several, which are of one kind."""
        return Pass(
            sample=torch.cat([one.sample for one in several]),
            timestep=torch.cat([one.timestep.expand(len(one)) for one in several]),
            states=torch.cat([one.states for one in several]),
            given=_joined([dict(one.given) for one in several]),
        )


@dataclass
class Tally:
    """What an adapter has had evaluated; copies of it for one edit write into the same.

    Attributes:
        samples: Number of samples.
    """

    samples: int = 0


class Lane(Protocol):
    """One of several edits that go on side by side, as its model sees it."""

    @property
    def over(self) -> bool:
        """Whether the edit has ended, so that nothing more is evaluated for it."""

    def evaluate(self, asked: Pass) -> Tensor:
        """Return the denoiser's answer, evaluated together with what the others ask for."""

    def attach(self, run: Run) -> AbstractContextManager[Run]:
        """Let a run's controls act on this lane's rows, for the length of a with-block."""


def _layout(value: Any, rows: int) -> Any:
    """Describe all of a value but the number of rows; one that has others is like no other."""
    if isinstance(value, Tensor):
        own = () if value.dim() and len(value) == rows else (id(value),)
        return str(value.dtype), tuple(value.shape[1:]), own
    if isinstance(value, Mapping):
        return {name: _layout(value[name], rows) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_layout(one, rows) for one in value]
    return value


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        return {name: _joined([value[name] for value in values]) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(_joined(list(ones)) for ones in zip(*values, strict=True))
    return first
