"""Interventions on attention: the source's maps, or keys and values, put into the target."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from freeprompt.core import Control, Model, Share, Sites, Window, step_count
from freeprompt.core.cross import EditProbs, WordEdit
from freeprompt.core.params import param
from freeprompt.core.words import Spelling, align
from freeprompt.errors import ConfigError
from freeprompt.methods import METHODS, Method, Task, TwoBranch

WORDS = ("edited", "others", "padding", "others+padding", "all")


@dataclass(frozen=True, kw_only=True)
class Intervention(TwoBranch):
    """Replace the target's attention by the source's, at any sites, in any steps.

    Not an editing method but a way to ask what attention does.
    """

    sites: Sites = param(Sites("none"), "Where; 'none' is the plain generation of the target")
    start: float = param(0.0, "Share of the steps before it", low=0, high=1, unit="share")
    stop: float = param(1.0, "Share of the steps at which it ends", low=0, high=1, unit="share")
    take: str = param(
        "map",
        "'map' takes the source's attention map, 'values' its keys and values",
        choices=("map", "values"),
    )
    words: str = param(
        "all",
        "At cross-attention, whose maps: the edited word's, the other words', those of the end "
        "token and the padding, both of these, or all",
        choices=WORDS,
    )

    half: str = param(
        "cond",
        "Which half of the target's batch rows take; FPE and P2P touch the conditional one",
        choices=("cond", "uncond", "both"),
    )

    reads_prompts = True

    @property
    def empty(self) -> bool:
        """Whether nothing is replaced, whatever the number of steps."""
        return not self.sites or self.start >= self.stop

    @property
    def reads_uncond(self) -> bool:
        return self.half != "cond"

    def controls(self, model: Model, task: Task) -> list[Control]:
        steps = task.steps
        window = Window(step_count(steps, self.start), step_count(steps, self.stop))
        if not self.sites or not window:
            return []
        sites = self.sites.select(model.sites, model.name)
        if all(site.kind == "cross" for site in sites) and self.take == "map":
            return [self._swap_words(model, task, window)]
        names: Any = ("q", "k") if self.take == "map" else ("k", "v")
        if any(site.kind == "cross" for site in sites):
            raise ConfigError(
                f"{str(self.sites)!r} with take={self.take!r} names cross-attention: replace its "
                "maps alone, in an intervention of its own. Its keys and values are the prompt."
            )
        return [Share(names=names, sites=self.sites, window=window, half=self.half)]  # type: ignore[arg-type]

    def _swap_words(self, model: Model, task: Task, window: Window) -> Control:
        source = model.spell(task.source)
        spelled = [model.spell(prompt) for prompt in task.targets]
        edits = [
            WordEdit(
                alignment=align(source, target, "replace"),
                fade=swapped_tokens(source, target, self.words).expand(task.steps, -1),
                weights=torch.ones(target.length),
            )
            for target in spelled
        ]
        return EditProbs(edits=edits, sites=self.sites, window=window, half=self.half)  # type: ignore[arg-type]


def swapped_tokens(source: Spelling, target: Spelling, words: str) -> Tensor:
    """Return 1 for the target tokens that `words` names and 0 for the others, (tokens,).

    Words are compared by position; the edited ones are those that differ.

    Args:
        source: Source prompt.
        target: Target prompt, of equally many words.
        words: `edited`, `others`, `padding` (the end token and what follows it),
            `others+padding` or `all`, which has the start token too.
    """
    if words == "all":
        return torch.ones(target.length)
    chosen = torch.zeros(target.length)
    for before, after, (start, stop) in zip(source.words, target.words, target.spans, strict=True):
        kind = "others" if before.lower() == after.lower() else "edited"
        chosen[start:stop] = float(kind in words)
    chosen[target.end :] = float("padding" in words)
    return chosen


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing to try: a method with its parameters, under a readable label.

    Attributes:
        label: For tables and pictures.
        method: What is done.
        other_noise: Start the target from other noise than the source's.
    """

    label: str
    method: Method
    other_noise: bool = False

    @cached_property
    def key(self) -> str:
        """What is done, as text; equal for equal work whatever the label."""
        what = {"name": type(self.method).__name__, **self.method.to_dict()}
        if isinstance(self.method, Intervention) and self.method.empty:
            what = {"name": "plain"}  # so no parameter matters
        return json.dumps({**what, "other_noise": self.other_noise}, sort_keys=True)

    def forwards(self, targets: int, steps: int, guided: bool) -> int:
        """Return about how many sample-forwards one case takes, at most."""
        return steps * (targets * (2 if guided else 1) + 1)


def intervene(label: str, sites: str, *, other_noise: bool = False, **settings: Any) -> Cell:
    """Return the cell of an intervention."""
    method = Intervention(sites=Sites(sites), **settings)
    return Cell(label=label, method=method, other_noise=other_noise)


def using(label: str, method: str, **settings: Any) -> Cell:
    """Return the cell of a registered editing method."""
    return Cell(label=label, method=METHODS[method].build(settings))


PLAIN = intervene("none", "none")
