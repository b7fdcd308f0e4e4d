"""Null-text inversion against the same written out plainly, and what it leaves behind."""

import pytest
import torch
from tests.reference import Reference

from freeprompt.core import Text
from freeprompt.inversion import DDIMInversion, NullTextInversion, reconstruct
from freeprompt.inversion.null_text import _slope
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd

STEPS, PROMPT, GUIDANCE = 4, "a red dog", 5.0
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(), "tiny")


def invert(model, steps=STEPS, guidance=GUIDANCE, callback=None, negative="", **more):
    return NullTextInversion(**more)(
        model,
        CLEAN,
        steps=steps,
        prompt=PROMPT,
        guidance=guidance,
        negative=negative,
        callback=callback,
    )


class Plain(Reference):
    """The paper's algorithm 1 with `backward()` and Adam in its own formula."""

    def invert(self, pivots, negative="", inner=10, rate=1e-2, enough=1e-5):
        states = self._text([negative])
        x, found, counts = pivots[-1], [], []
        for i, label in enumerate(reversed(self.labels)):
            states, count = self.optimise(x, label, states, pivots[-2 - i], i, inner, rate, enough)
            found.append(states)
            counts.append(count)
            with torch.no_grad():
                x = self.guided_step(x, label, states)
        return torch.cat(found), x, counts

    def optimise(self, x, label, states, pivot, i, inner, rate, enough):
        leaf = states.clone().requires_grad_()
        m, v, lr = torch.zeros_like(leaf), torch.zeros_like(leaf), rate * (1 - i / (2 * STEPS))
        for n in range(1, inner + 1):
            leaf.grad = None
            loss = (self.guided_step(x, label, leaf) - pivot).square().mean()
            loss.backward()
            with torch.no_grad():
                m, v = 0.9 * m + 0.1 * leaf.grad, 0.999 * v + 0.001 * leaf.grad**2
                hat_m, hat_v = m / (1 - 0.9**n), v / (1 - 0.999**n)
                leaf -= lr * hat_m / (hat_v.sqrt() + 1e-8)
            if loss.item() < enough + i * 2e-5:
                return leaf.detach(), n
        return leaf.detach(), inner

    def guided_step(self, x, label, states):
        cond = self.unet(x, label, self._text([PROMPT])).sample
        uncond = self.unet(x, label, states).sample
        return self._denoise(x, label, uncond + self.guidance * (cond - uncond))


@pytest.mark.parametrize("negative", ["", "a car"])
def test_against_a_plain_adam_loop(both, negative):
    """Embeddings, and where the guided steps end with them; the pivots are DDIM's at guidance 1."""
    pivots = DDIMInversion()(both, CLEAN, steps=STEPS, prompt=PROMPT).latents
    by_hand = Plain(both.pipe, STEPS, GUIDANCE)
    embeddings, end, _ = by_hand.invert([x[None] for x in pivots], negative, inner=5)
    path = invert(both, negative=negative, inner_steps=5)
    assert torch.equal(path.latents, pivots)
    moved = float((embeddings - both.encode_text([negative]).states).abs().max())
    assert moved > 1e-2
    # Adam divides by the gradient's size, so where that is nearly nothing rounding decides
    assert float((path.null - embeddings).abs().mean()) < 0.02 * moved
    assert float((reconstruct(both, path) - end).abs().max()) < 1e-2
    assert (path.guidance, path.negative, path.prompt) == (GUIDANCE, negative, PROMPT)


def test_guided_denoising_comes_nearer_to_the_image(model):
    """What the optimisation is for; without it the guided source drifts away."""
    far, near = (
        float((reconstruct(model, invert(model, inner_steps=n, rate=0.05)) - CLEAN).norm())
        for n in (0, 20)
    )
    assert near < 0.7 * far


def test_it_stops_early_where_it_is_good_enough(model):
    """At once if anything is good enough; then only one gradient step is taken a step."""
    before = model.sample_forwards
    invert(model, enough=1e9)
    assert model.sample_forwards - before == STEPS + STEPS * (1 + 1 + 1)
    before = model.sample_forwards
    invert(model, enough=0.0, inner_steps=3, steps=2)
    assert model.sample_forwards - before == 2 + 2 * (1 + 3 + 1)


def test_each_step_starts_from_the_embedding_before(model):
    """With one tiny step each, the embeddings differ from their predecessors by that step."""
    found = invert(model, inner_steps=1, rate=1e-3, enough=0.0).null
    start = torch.cat([model.encode_text([""]).states, found])
    for i in range(STEPS):
        moved = float((start[i + 1] - start[i]).abs().max())
        assert moved == pytest.approx(1e-3 * (1 - i / (2 * STEPS)), rel=1e-2)


def test_both_phases_are_reported(model):
    told = []
    invert(model, inner_steps=0, callback=told.append)
    assert [(p.phase, p.step, p.steps) for p in told] == [
        (phase, i, STEPS) for phase in ("invert", "optimise") for i in range(STEPS)
    ]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_weights_are_left_as_they_were(model, wanted):
    """Also weights that ask for gradients get none, and nobody's wish is changed."""
    unet, text = model.pipe.unet, model.pipe.text_encoder
    parameters = [*unet.parameters(), *text.parameters()]
    before = [p.clone() for p in parameters]
    unet.requires_grad_(wanted)
    processors = dict(unet.attn_processors)
    try:
        path = invert(model, inner_steps=2)
        assert all(p.requires_grad == wanted for p in unet.parameters())
        assert not any(p.requires_grad for p in text.parameters())
        assert all(p.grad is None for p in parameters)
    finally:
        unet.requires_grad_(False)
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    assert all(unet.attn_processors[name] is p for name, p in processors.items())
    assert not path.null.requires_grad and not path.latents.requires_grad


def test_an_interrupt_while_optimising_leaves_gradients_as_they_were(model):
    def stop(progress):
        if progress.phase == "optimise":
            raise KeyboardInterrupt

    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        invert(model, inner_steps=1, callback=stop)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not torch.is_grad_enabled()


def test_half_precision_keeps_the_gradients():
    """At 512 pixels a mean over the latent has gradients below the smallest number of float16."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(8, 4 * 64 * 64, generator=generator) / 10

    class Step:
        """A step whose end depends on the embedding linearly, in the embedding's precision."""

        def end(self, null):
            return (null.states.flatten() @ slopes.to(null.states)).view(1, 4, 64, 64)

    states = torch.zeros(1, 1, 8)
    pivot = torch.randn(1, 4, 64, 64, generator=generator) / 5000
    found = []
    for dtype in (torch.float32, torch.float16):
        leaf = states.clone().requires_grad_()
        null = Text(states.to(dtype))
        found.append(_slope(Step(), null, leaf, pivot.to(dtype))[1])
    assert torch.nn.functional.cosine_similarity(*(x.flatten() for x in found), dim=0) > 0.99
