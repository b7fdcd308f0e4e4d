"""Pinning a real source to its trajectory equals Direct Inversion's correction, by hand."""

import pytest
import torch
from tests.reference import MapSwap, Reference, below_top_layers

from freeprompt.core import TRIPLE
from freeprompt.inversion import DDIMInversion, NullTextInversion
from freeprompt.methods import FPE, METHODS, P2P, Task, TwoBranch

STEPS, GUIDANCE = 5, 7.5
SOURCE, TARGET = "a red dog", "a blue cat"
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


class Direct(Reference):
    """Ju et al., algorithm 1: both branches guided; what the source misses is added back to it."""

    def edit(self, path, shared, correct=True):
        x = torch.cat([path.start, path.start])
        rows = [("", 0), ("", 1), (SOURCE, 0), (TARGET, 1)]
        swap = MapSwap(pairs=[(2, 3)], layers=below_top_layers(self.unet))
        with self._materialised(swap):
            for i, label in enumerate(reversed(self.labels)):
                swap.active = i < shared
                x = self._denoise(x, label, self._guided(x, label, rows))
                offset = path.latents[STEPS - 1 - i] - x[0]
                if correct:
                    x = torch.stack([x[0] + offset, x[1]])  # the target is left as it is
        return x[:1], x[1:]


def task(path, **more):
    return Task(
        targets=(TARGET,),
        source=path.prompt,
        start=path.start,
        steps=STEPS,
        guidance=GUIDANCE,
        trajectory=path,
        **more,
    )


@pytest.fixture(scope="module")
def path(model):
    return DDIMInversion()(model, CLEAN, steps=STEPS, prompt=SOURCE)


def gap(a, b):
    return float((a - b).abs().max())


def test_replay_is_the_papers_correction(model, path):
    by_hand = Direct(model.pipe, STEPS, GUIDANCE)
    source, target = by_hand.edit(path, shared=4)
    made = FPE(share=0.8)(model, task(path)).targets
    assert gap(made, target) < 1e-3
    assert gap(source, CLEAN) < 1e-5
    _, drifted = by_hand.edit(path, shared=4, correct=False)
    assert gap(drifted, target) > 1e-2  # so the correction does something here


def test_every_two_branch_method_has_the_flag():
    two = [cls for cls in METHODS.values() if issubclass(cls, TwoBranch) and cls.inverts]
    assert len(two) >= 5
    for cls in two:
        assert cls().pinned and not cls(replay=False).pinned
        assert "Direct Inversion" in cls.specs()["replay"].help


def test_unpinned_the_source_walks_on_its_own(model, path):
    """Without guidance, as in MasaCtrl's and Plug-and-Play's first code."""
    free, pinned = (
        P2P(replay=flag, cross=0.8, share=0.8)(model, task(path)).targets for flag in (False, True)
    )
    assert gap(free, pinned) > 1e-3


def test_an_unpinned_source_is_guided_where_null_text_found_it(model):
    """As in null-text inversion's own code: its embeddings hold under guidance only."""
    found = NullTextInversion(inner_steps=1)(
        model, CLEAN, steps=STEPS, prompt=SOURCE, guidance=GUIDANCE
    )
    seen = []
    hook = model.pipe.unet.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    FPE(replay=False, share=0.6)(model, task(found))
    pinned = FPE(share=0.6)(model, task(found))
    hook.remove()
    assert seen == [4] * 3 + [2] * 2 + [len(TRIPLE)] * 3 + [2] * 2
    assert pinned.acted


def test_null_embeddings_reach_the_targets_unconditional_rows(model, path):
    from dataclasses import replace

    other = model.encode_text(["a green horse"] * STEPS).states
    moved = FPE()(model, task(replace(path, null=other))).targets
    named = FPE()(model, task(path, negative="a green horse")).targets
    assert torch.allclose(moved, named, rtol=0, atol=1e-5)
    assert gap(moved, FPE()(model, task(path)).targets) > 1e-3


def test_proximal_guidance_reaches_two_branch_methods(model, path):
    """Taking everything off leaves the unconditional prediction: guidance 0."""
    from dataclasses import replace

    none = FPE(share=0.4)(model, task(replace(path, proximal=1.0))).targets
    some = FPE(share=0.4)(model, task(replace(path, proximal=0.7))).targets
    all_ = FPE(share=0.4)(model, task(path)).targets
    start = gap(none, all_)
    assert 0 < gap(some, none) < start and gap(some, all_) > 1e-3
    text = model.encode_text([""])
    x = path.start
    schedule = model.schedule(STEPS)
    for i in range(STEPS):
        answer = model.predict(x, schedule.timesteps[i], text)
        x = schedule.step(x, schedule.noise(x, answer, i), i)
    assert gap(none, x) < 1e-3
