"""LEDITS++: several concepts at once, each added or removed only where it belongs."""

from collections.abc import Sequence
from dataclasses import dataclass

from freeprompt.core import Model, Row, Rows, Sites, Text, Window, denoise, step_count
from freeprompt.core.concepts import Concept, SemanticGuidance
from freeprompt.core.params import named_numbers, param
from freeprompt.errors import ConfigError, unknown
from freeprompt.methods.base import METHODS, Method, Outcome, Task


@METHODS.register("ledits")
@dataclass(frozen=True, kw_only=True)
class LEdits(Method):
    """Push concepts into the picture or out of it, each inside a mask that is found on the way.

    A target names concepts, not a picture: `a red car; -tree` brings in a red car and takes trees
    away. Noises of an edit-friendly inversion hold the source; on them each concept moves the
    noise where the image looks at its words and where it changes the noise most.

    Preserves: what no concept touches.  Changes: what the concepts name, several at once.
    Fails when: a concept needs another layout, or its mask misses it.

    Source: Brack et al., CVPR 2024, arXiv:2311.16711; defaults of diffusers' pipeline. Its solver
    (sde-dpm-solver++, order 2) is not used: the noises here are DDPM's.
    """

    inversion = "edit-friendly"
    # the base is the unconditional prediction, so that must be what the noises were found with
    inversion_settings = {"skip": 0.15, "last_noise": True, "source_guidance": 0.0}  # noqa: RUF012
    uses = needs = ("noises",)
    guided = True

    scales: str = param(
        "",
        "Scales of single concepts, such as tree=10,a red car=4; the others take the guidance",
        source="diffusers: edit_guidance_scale, 5 where none is given",
    )
    masks: str = param(
        "both",
        "What bounds a concept: where the image looks at its words, where it changes the noise "
        "most, both, or nothing",
        choices=("both", "words", "noise", "none"),
        source="diffusers: use_intersect_mask",
    )
    threshold: float = param(
        0.9,
        "Share of the picture that a mask leaves out; each mask on its own",
        low=0,
        high=1,
        source="diffusers: edit_threshold; its examples use 0.75",
    )
    sites: Sites = param(
        Sites("cross:coarsest"),
        "Cross-attention layers that say where words look, all of one grid",
        source="diffusers: a quarter of the latent's side",
    )
    warmup: float = param(
        0.0,
        "Share of the steps before concepts act",
        low=0,
        high=1,
        unit="share",
        source="diffusers: edit_warmup_steps",
    )
    until: float = param(
        1.0,
        "Share of the steps after which concepts no longer act",
        low=0,
        high=1,
        unit="share",
        source="diffusers: edit_cooldown_steps",
    )

    def check(self, targets: Sequence[str]) -> None:
        texts = [text for target in targets for text, _ in concepts_of(target)]
        for name in named_numbers("scales", self.scales):
            if name not in texts:
                raise unknown(ConfigError, "concept in scales:", name, texts)

    def __call__(self, model: Model, task: Task) -> Outcome:
        source = task.noisy()
        self.check(task.targets)
        named = [
            (item, text, sign)
            for item, target in enumerate(task.targets)
            for text, sign in concepts_of(target)
        ]
        rows = [Row("target", False, item) for item in range(len(task.targets))]
        rows += [Row("target", True, item, entry) for entry, (item, _, _) in enumerate(named)]
        control = self._guidance(model, task, [(text, sign) for _, text, sign in named])
        done = denoise(
            model,
            task.schedule(model),
            {"target": source.start.expand(len(task.targets), -1, -1, -1)},
            text={"target": Text.stack([model.encode_text([text]) for _, text, _ in named])},
            null=task.null(model),
            rows=Rows(tuple(rows)),
            controls=[control],
            guidance=task.guidance,
            start=source.first,
            callback=task.callback,
        )
        acted = any(i in control.acts for i in range(source.first, task.steps))
        return Outcome(targets=done.state["target"], source=None, edited=(), acted=acted)

    def _guidance(
        self, model: Model, task: Task, named: Sequence[tuple[str, int]]
    ) -> SemanticGuidance:
        scales = named_numbers("scales", self.scales)
        by_words = self.masks in ("both", "words")
        concepts = [
            Concept(
                text=text,
                scale=sign * scales.get(text, task.guidance),
                tokens=tuple(range(1, model.spell(text).end)),
            )
            for text, sign in named
        ]
        return SemanticGuidance(
            concepts=concepts,
            acts=Window(step_count(task.steps, self.warmup), step_count(task.steps, self.until)),
            by_words=by_words,
            by_noise=self.masks in ("both", "noise"),
            share=self.threshold,
            sites=self.sites if by_words else Sites("none"),
            window=Window(0, task.steps),
        )


def concepts_of(target: str) -> list[tuple[str, int]]:
    """Read a target such as `a red car; -tree` as [("a red car", 1), ("tree", -1)].

    Raises:
        ConfigError: if it names no concept, or an empty one.
    """
    found = []
    for part in target.split(";"):
        text = part.strip()
        sign = -1 if text.startswith("-") else 1
        text = text.removeprefix("-").strip()
        if not text:
            raise ConfigError(
                f"A target of ledits names concepts, separated by semicolons, those to be removed "
                f"with a minus, such as 'a red car; -tree'. One of {target!r} is empty."
            )
        found.append((text, sign))
    return found
