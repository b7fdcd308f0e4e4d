"""Reducing attention maps at capture, so that a long run of all layers fits in memory.

A cross-attention map of Stable Diffusion 1.5 is 4096 x 77 numbers for each of 8 heads at the finest
grid; those of one row in a 50-step run are 3.3 GB. What is asked for is far less: a few words,
often the mean over heads or steps. That is all that is ever kept.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.core import Call, Control, Model, Row, Rows, Run, Site, Sites, Window
from freeprompt.core.control import ALWAYS
from freeprompt.core.words import Spelling
from freeprompt.errors import ConfigError, ControlNeverFired

START, END, PAD = "<start>", "<end>", "<pad>"
SPECIAL = (START, END, PAD)
"""Names of the tokens that are no words: the start, the end, and all of the padding."""

LARGEST = 32 * 32  # tokens of the largest grid whose self maps are kept unless asked for
BUDGET = 2**30  # bytes that one watch keeps unless asked for more
_MEAN = -1  # key of the running mean, where single steps are not kept

Spans = tuple[slice, ...]
Array = np.ndarray[Any, np.dtype[np.float32]]


def columns(spelling: Spelling, words: Sequence[str]) -> dict[str, Spans]:
    """Return the token columns that are summed for each word, as contiguous runs.

    A word that is spelled in several tokens, or occurs several times, is one word: the
    probabilities of its tokens are summed.

    Args:
        spelling: The prompt as the text encoder reads it.
        words: Words of the prompt in any case, or `<start>`, `<end>`, `<pad>`.

    Raises:
        ConfigError: for a word that the prompt does not have; the message lists those it has.
    """
    return {word: tuple(_runs(_tokens(spelling, word))) for word in dict.fromkeys(words)}


def _tokens(spelling: Spelling, word: str) -> Sequence[int]:
    special = {
        START: range(1),
        END: range(spelling.end, spelling.end + 1),
        PAD: range(spelling.end + 1, spelling.length),
    }
    if word not in special:
        return spelling.tokens_of(word)
    if not special[word]:
        raise ConfigError(
            f"{spelling.prompt!r} fills all {spelling.length} tokens, so it has no {PAD}."
        )
    return special[word]


def _runs(tokens: Sequence[int]) -> Iterator[slice]:
    for _, group in groupby(enumerate(sorted(tokens)), lambda pair: pair[1] - pair[0]):
        run = [token for _, token in group]
        yield slice(run[0], run[-1] + 1)


def by_word(
    probs: Float[Tensor, "heads query token"], spans: Sequence[Spans]
) -> Float[Tensor, "heads word query"]:
    """Sum the columns of a cross-attention map that belong to each word."""
    parts = [sum(probs[..., run].sum(-1) for run in runs) for runs in spans]
    return torch.stack(parts, dim=1)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Kept:
    """What is left of one site's maps: a map of every step, or their running mean.

    Attributes:
        grid: (height, width) of the site's grid.
        by_step: Whether single steps are kept.
        maps: Step -> map; with the mean alone, one entry.
        seen: How many maps each step has given.
    """

    grid: tuple[int, int]
    by_step: bool
    maps: dict[int, Tensor] = field(default_factory=dict, repr=False)
    seen: Counter[int] = field(default_factory=Counter)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(x.numel() * x.element_size() for x in self.maps.values())

    def add(self, step: int, new: Tensor) -> None:
        """Take in one map, which must be nobody else's memory."""
        self.seen[step] += 1
        key, count = (step, self.seen[step]) if self.by_step else (_MEAN, self.seen.total())
        held = self.maps.get(key)
        if held is not None:
            wide = held.float()
            new = (wide + (new.float() - wide) / count).to(held.dtype)
        self.maps[key] = new

    def array(self) -> Array:
        """Return the maps, the first axis being the steps in order (or 1 for the mean)."""
        order = sorted(self.maps)
        found = torch.stack([self.maps[key] for key in order]).cpu()
        self.maps = dict(zip(order, found, strict=True))  # the same memory: nothing is held twice
        return found.numpy()


@dataclass(frozen=True, kw_only=True)
class Watch(Control):
    """Base of the observers that reduce the attention maps of one batch row.

    The picture stays bit for bit what it was: the output comes from the fused kernel, and the map
    is computed beside it. An observer sees the maps as the controls before it have left them.

    Args:
        row: Whose maps. Steps in which the batch has no such row are passed over.
        sites: Where.
        window: When.
        by_step: Keep every step by itself; otherwise their mean.
        by_head: Keep every head by itself; otherwise their mean.
        steps: How many steps there will be, for the arithmetic.
        budget: Bytes that may be kept; None for no limit.

    Attributes:
        kept: What there is so far, by site.

    Raises:
        ConfigError: at the first step, if all steps would need more than `budget`.
    """

    row: Row
    sites: Sites = field()
    window: Window = ALWAYS
    by_step: bool = False
    by_head: bool = False
    steps: int = 1
    budget: int | None = BUDGET
    kept: dict[Site, Kept] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        if self.row in call.rows.rows:
            one = probs[call.rows.rows.index(self.row)].detach()
            self._keep(call, self.reduced(one).to(self.stored))
        return probs

    @property
    def stored(self) -> torch.dtype:
        """What is kept in."""
        return torch.float32

    def reduced(self, probs: Float[Tensor, "heads query key"]) -> Tensor:
        """Return what is kept of one map, in memory of its own."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(kept.nbytes for kept in self.kept.values())

    def found(self) -> dict[Site, Kept]:
        """Return what was kept, by site in execution order.

        Raises:
            ControlNeverFired: if the row was never in the batch.
        """
        if not self.kept:
            half = "conditional" if self.row.conditional else "unconditional"
            raise ControlNeverFired(
                f"No {half} {self.row.branch} row was ever in the batch within the steps "
                f"{self.window.start} to {self.window.stop - 1}, so there are no maps of it."
            )
        return {site: self.kept[site] for site in sorted(self.kept, key=lambda s: s.index)}

    def _keep(self, call: Call, new: Tensor) -> None:
        if call.site not in self.kept:
            self.kept[call.site] = Kept(grid=call.grid, by_step=self.by_step)
            self._check_budget(new)
        self.kept[call.site].add(call.step, new)

    def _check_budget(self, new: Tensor) -> None:
        times = self.steps if self.by_step else 1
        needed = (self.nbytes + new.nbytes) * times
        if self.budget is not None and needed > self.budget:
            raise ConfigError(
                f"The maps would need more than {needed / 2**30:.1f} GiB: "
                f"{' x '.join(map(str, new.shape))} numbers of {new.element_size()} bytes at "
                f"{len(self.kept)} or more "
                f"layers{f' in {times} steps' if times > 1 else ''}; at most "
                f"{self.budget / 2**30:.1f} GiB are kept unless asked for. Take fewer layers or "
                "steps, or the mean over steps or heads, or allow it with large=True (--large)."
            )


@dataclass(frozen=True, kw_only=True)
class WatchCross(Watch):
    """Keep the cross-attention maps of some words: (heads or 1, words, query) a site and step.

    Args:
        words: Word -> its token columns, as `columns` returns them.
    """

    words: Mapping[str, Spans]

    @property
    def stored(self) -> torch.dtype:
        """What is kept in: float16 for every step and head, which is read one at a time.

        A probability loses at most one part in 2000 by that, and 50 steps of Stable Diffusion
        1.5's size stay under 200 MB. A mean is kept, and every mean computed, in float32.
        """
        return torch.float16 if self.by_step and self.by_head else torch.float32

    def reduced(self, probs: Float[Tensor, "heads query key"]) -> Tensor:
        found = by_word(probs, list(self.words.values()))
        return found if self.by_head else found.mean(0, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class WatchSelf(Watch):
    """Keep self-attention maps: (heads or 1, query, key) a site and step."""

    def reduced(self, probs: Float[Tensor, "heads query key"]) -> Tensor:
        return probs.clone() if self.by_head else probs.mean(0, keepdim=True)


def check_grids(sites: Sequence[Site], latent: tuple[int, int], large: bool) -> None:
    """Refuse self-attention maps above 32x32 before any work is done, unless asked for.

    Args:
        sites: The self-attention sites.
        latent: (height, width) of the latent.
        large: Whether they were asked for.

    Raises:
        ConfigError: with the arithmetic.
    """
    wide = [site for site in sites if _tokens_at(site, latent) > LARGEST]
    if wide and not large:
        (h, w), n = wide[0].grid(*latent), _tokens_at(wide[0], latent)
        size = n * n * 4
        raise ConfigError(
            f"{len(wide)} of the chosen layers, {wide[0].name} first, look at a {h}x{w} grid: "
            f"{n} x {n} x 4 bytes = {size / 2**20:.0f} MiB a map, {len(wide) * size / 2**20:.0f} "
            "MiB to keep their means, and as much again for each head and batch row while one is "
            "computed. Above 32x32 this must be asked for with large=True (--large); "
            "'self:below-top' leaves the finest grid out."
        )


def finest_allowed(known: Sequence[Site], latent: tuple[int, int]) -> str | None:
    """Return the self-attention sites of the finest grid of at most 32x32, as an expression."""
    scales = [s.scale for s in known if s.kind == "self" and _tokens_at(s, latent) <= LARGEST]
    return f"self:scale.{min(scales)}" if scales else None


def _tokens_at(site: Site, latent: tuple[int, int]) -> int:
    height, width = site.grid(*latent)
    return height * width


class Observed:
    """A model that carries observers along in everything that is attached to it.

    So any method can be watched without knowing it. The observers come last, and see what the
    method's controls have made of the maps.

    Args:
        model: The model; all but `attach` is its own.
        observers: Controls that only look.

    Raises:
        ConfigError: for a control that edits.
    """

    def __init__(self, model: Model, observers: Sequence[Control]):
        for control in observers:
            if not control.observes:
                raise ConfigError(
                    f"{type(control).__name__} does not say that it only observes "
                    "(observes = True). Controls that edit belong to a method."
                )
        self._model, self._observers = model, tuple(observers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def attach(self, controls: Sequence[Control], rows: Rows) -> AbstractContextManager[Run]:
        """Install controls and the observers for the length of a with-block."""
        return self._model.attach((*controls, *self._observers), rows)
