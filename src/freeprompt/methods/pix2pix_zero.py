"""pix2pix-zero: an edit direction for the text, and gradients that hold the attention maps."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeprompt.core import PAIR, SOURCE, TARGET, Call, Control, Model, Rows, Sites, Text, denoise
from freeprompt.core.control import ALWAYS
from freeprompt.core.params import param, word_pair
from freeprompt.core.window import Window
from freeprompt.core.words import Spelling, common_subsequence
from freeprompt.methods.base import METHODS, Method, Outcome, Task
from freeprompt.methods.sentences import ENDINGS, OPENINGS, sentences_about


@dataclass(frozen=True, kw_only=True)
class SourceMaps(Control):
    """Keep the source's cross-attention maps of the present step."""

    sites: Sites = field()
    window: Window = ALWAYS
    maps: dict[str, Tensor] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        self.maps[call.site.name] = probs[call.rows.sources("cond")[0]].detach()
        return probs


@dataclass(frozen=True, kw_only=True)
class MapDistance(Control):
    """Sum over sites how far each row's maps are from the source's, squared, mean over heads."""

    sites: Sites = field()
    window: Window = ALWAYS
    source: dict[str, Tensor] = field(repr=False)
    terms: list[Tensor] = field(default_factory=list, repr=False)
    needs_probs = True
    observes = True

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        apart = (probs - self.source[call.site.name]).square()  # (batch, heads, query, key)
        self.terms.append(apart.sum((2, 3)).mean(1))
        return probs


@METHODS.register("pix2pix-zero")
@dataclass(frozen=True, kw_only=True)
class Pix2PixZero(Method):
    """Move the prompt along a direction between two words, and hold cross-attention by gradients.

    The direction is the difference of two mean text embeddings, of sentences about the new thing
    and about the old one. Before each step the target's latent takes one gradient step that brings
    its cross-attention maps nearer to the source's. The text is the *source's*, moved: the target
    prompt says only which words change.

    Preserves: layout, and what the source prompt says beside the changed words.
    Changes: what the changed words name.  Fails when: the new thing needs another shape; maps are
    held, and so is the old silhouette.

    Source: Parmar et al., SIGGRAPH 2023, arXiv:2302.03027; defaults of the released code. Its
    authors use guidance 5 with the caption as negative prompt.
    """

    reads_prompts = True
    inversion = "regularised"
    uses = ("null",)

    words: str = param(
        "",
        "Old thing and new thing, such as cat,dog; none: the words in which the prompts differ",
        source="ours; the authors give files of sentences",
    )
    sentences: int = param(
        48,
        "Sentences about each thing",
        low=1,
        high=len(OPENINGS) * len(ENDINGS),
        source="ours; the authors use about 1000 written by GPT-3",
    )
    strength: float = param(1.0, "Factor on the direction", low=0, high=10, source="paper: 1")
    map_guidance: float = param(
        0.1, "Length of the gradient step on the latent", low=0, high=10, source="released code"
    )
    sites: Sites = param(
        Sites("cross:all"), "Cross-attention layers whose maps are held", source="released code"
    )

    def __call__(self, model: Model, task: Task) -> Outcome:
        schedule = model.schedule(task.steps)
        caption, null = model.encode_text([task.source]), task.null(model)
        moved = self._moved(model, task, caption)
        real = task.trajectory is not None
        watched = SOURCE if real else task.shape(PAIR.without(branch="target"))
        source, target = task.start, task.start.expand(len(task.targets), -1, -1, -1)
        for i in range(task.steps):
            maps = SourceMaps(sites=self.sites)
            source = denoise(
                model,
                schedule,
                {"source": source},
                text={"source": caption},
                null=null,
                rows=watched,
                controls=[maps],
                guidance=task.guidance,
                start=i,
                stop=i + 1,
                replay=task.trajectory,
            ).state["source"]
            target = self._held(model, schedule.timesteps[i], i, target, moved, maps.maps)
            target = denoise(
                model,
                schedule,
                {"target": target},
                text={"target": moved},
                null=null,
                rows=task.shape(TARGET),
                controls=task.guides(),
                guidance=task.guidance,
                start=i,
                stop=i + 1,
                callback=task.callback,
            ).state["target"]
        return Outcome(
            targets=target,
            source=None if real else source,
            edited=(),
            acted=self.strength > 0 and bool((moved.states != caption.states).any()),
        )

    def _moved(self, model: Model, task: Task, caption: Text) -> Text:
        """Return the source's embedding moved along each target's direction."""
        source = model.spell(task.source)
        moved = []
        for prompt in task.targets:
            old, new = self._things(source, model.spell(prompt))
            old_mean, new_mean = (self._mean(model, thing) for thing in (old, new))
            # the pooled embedding, where there is one, says what is drawn as well
            extras = {
                name: x + self.strength * (new_mean.extras[name] - old_mean.extras[name])
                for name, x in caption.extras.items()
            }
            direction = self.strength * (new_mean.states - old_mean.states)
            moved.append(Text(caption.states + direction, extras))
        return Text.stack(moved)

    def _things(self, source: Spelling, target: Spelling) -> tuple[str, str]:
        """Return what is replaced by what: as given, or where the prompts differ."""
        if self.words:
            return word_pair("words", self.words)
        pairs = common_subsequence(source.words, target.words)
        old = [w for i, w in enumerate(source.words) if i not in {a for a, _ in pairs}]
        new = [w for j, w in enumerate(target.words) if j not in {b for _, b in pairs}]
        if not old or not new:  # something is only added or taken away: compare the whole prompts
            return source.prompt, target.prompt
        return " ".join(old), " ".join(new)

    def _mean(self, model: Model, thing: str) -> Text:
        text = model.encode_text(sentences_about(thing, self.sentences))
        return Text(_average(text.states), {n: _average(x) for n, x in text.extras.items()})

    def _held(
        self,
        model: Model,
        timestep: int,
        step: int,
        x: Tensor,
        text: Text,
        source: dict[str, Tensor],
    ) -> Tensor:
        """Take one gradient step on the latents towards the source's cross-attention maps."""
        if self.map_guidance == 0:
            return x
        distance = MapDistance(sites=self.sites, source=source)
        rows = _conditional(len(x))
        with torch.enable_grad(), model.attach([distance], rows) as run:
            x = x.detach().requires_grad_()
            with run.at(step, (x.shape[-2], x.shape[-1])):
                model.predict(x, timestep, text)
            (gradient,) = torch.autograd.grad(torch.stack(distance.terms).sum(), x)
        return (x - self.map_guidance * gradient).detach()


def _average(x: Tensor) -> Tensor:
    return x.float().mean(0, keepdim=True).to(x)


def _conditional(targets: int) -> Rows:
    return TARGET.without(half="uncond").with_targets(targets)
