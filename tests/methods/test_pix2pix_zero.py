"""pix2pix-zero and its inversion against the same arithmetic in the open."""

import pytest
import torch
from tests.methods.test_rivals import GUIDANCE, SOURCE, STEPS, TARGET, TOLERANCE, gap, noise, task
from tests.reference import Reference

from freeprompt.inversion import DDIMInversion, RegularisedInversion
from freeprompt.inversion.regularised import autocorrelation, divergence
from freeprompt.methods import FPE, Pix2PixZero
from freeprompt.methods.sentences import ENDINGS, OPENINGS, sentences_about
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sdxl

WORDS = ("dog", "cat")


class KeepsMaps:
    """Attention in the open that appends cross-attention maps to a list."""

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
        probs = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        if cross:
            self.maps.append(probs)
        return attn.to_out[1](attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2)))


class ByHand(Reference):
    """Source and target each with its own forward; the gradient taken through open attention."""

    def edit(self, source, moved, start, length):
        maps, saved = [], dict(self.unet.attn_processors)
        self.unet.set_attn_processor({name: KeepsMaps(maps) for name in saved})
        self.states = {"": self._text([""]), "source": self._text([source]), "moved": moved}
        kept = made = start
        try:
            for label in reversed(self.labels):
                maps.clear()
                answer = self.two(kept, label, "source")
                reference = [m[1] for m in maps]
                kept = self._denoise(kept, label, answer)
                made = made - length * self.slope(made, label, maps, reference)
                made = self._denoise(made, label, self.two(made, label, "moved"))
        finally:
            self.unet.set_attn_processor(dict(saved))
        return kept, made

    def two(self, x, label, name):
        text = torch.cat([self.states[""], self.states[name]])
        uncond, cond = self.unet(x.repeat(2, 1, 1, 1), label, text).sample
        return (uncond + self.guidance * (cond - uncond))[None]

    def slope(self, x, label, maps, reference):
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            maps.clear()
            self.unet(x, label, self.states["moved"])
            pairs = zip(maps, reference, strict=True)
            loss = sum(((new[0] - old) ** 2).sum((1, 2)).mean() for new, old in pairs)
            return torch.autograd.grad(loss, x)[0]


def test_by_hand(pipe, model):
    length = 5.0  # a random network's maps hardly differ, so take a long step
    method = Pix2PixZero(map_guidance=length, words="dog,cat", sentences=5, strength=2)
    reference = ByHand(pipe, STEPS, GUIDANCE)
    mean = {w: reference._text(sentences_about(w, 5)).mean(0, keepdim=True) for w in ("dog", "cat")}
    moved = reference._text([SOURCE]) + 2 * (mean["cat"] - mean["dog"])
    kept, made = reference.edit(SOURCE, moved, noise(), length)
    outcome = method(model, task())
    assert gap(outcome.source, kept) < TOLERANCE
    assert gap(outcome.targets, made) < TOLERANCE
    unheld = Pix2PixZero(map_guidance=0, words="dog,cat", sentences=5, strength=2)
    assert gap(unheld(model, task()).targets, made) > 10 * TOLERANCE
    plain = FPE(share=0)(model, task(SOURCE)).targets
    assert gap(unheld(model, task()).targets, plain) > 10 * TOLERANCE


def test_no_gradient_reaches_the_network(model):
    Pix2PixZero(words="dog,cat", sentences=2)(model, task(steps=2))
    assert all(p.grad is None for p in model.pipe.unet.parameters())


def test_the_words_are_those_that_differ(model):
    def things(source, target):
        return Pix2PixZero()._things(model.spell(source), model.spell(target))

    assert things("a red dog", "a red cat") == ("dog", "cat")
    assert things("a red dog in the park", "a blue cat in the park") == ("red dog", "blue cat")
    assert things("a dog", "a dog at night") == ("a dog", "a dog at night")


def test_on_sdxl_the_pooled_embedding_moves_along():
    xl = adapt(tiny_sdxl(sample_size=8), "tiny-xl")
    method = Pix2PixZero(words="dog,cat", sentences=3, strength=2)
    caption = xl.encode_text(["a red dog"])
    moved = method._moved(xl, task("a red cat", "a cat", source="a red dog"), caption)
    old, new = (xl.encode_text(sentences_about(thing, 3)).extras["pooled"] for thing in WORDS)
    wanted = caption.extras["pooled"] + 2 * (new.mean(0) - old.mean(0))
    assert gap(moved.extras["pooled"], wanted.expand(2, -1)) < TOLERANCE
    assert gap(moved.extras["pooled"][:1], caption.extras["pooled"]) > 10 * TOLERANCE


def test_a_real_source_costs_one_row_a_step(model):
    trajectory = DDIMInversion()(model, noise(), steps=STEPS, prompt=SOURCE)
    before = model.sample_forwards
    outcome = Pix2PixZero(sentences=2)(
        model, task(TARGET, "a red bird", trajectory=trajectory, start=trajectory.start)
    )
    assert model.sample_forwards - before == STEPS * (1 + 2 + 2 * 2)
    assert outcome.source is None
    assert outcome.acted


def test_sentences_are_different_and_alike_in_their_frames():
    count = len(OPENINGS) * len(ENDINGS)
    dogs, cats = sentences_about("dog", count), sentences_about("cat", count)
    assert len(set(dogs)) == count
    assert [s.replace("dog", "cat") for s in dogs] == cats


class TestRegularised:
    def test_without_rounds_it_is_ddim(self, model):
        plain = DDIMInversion()(model, noise(), steps=STEPS).latents
        same = RegularisedInversion(rounds=0)(model, noise(), steps=STEPS).latents
        assert torch.equal(plain, same)

    def test_structure_is_taken_out_of_predicted_noise(self):
        wave = torch.linspace(0, 12, 16).sin().expand(1, 4, 16, 16)
        structured = noise() + wave
        cleaned = RegularisedInversion()._cleaned(structured, 0)

        def correlation(x):
            return float(autocorrelation(x, torch.Generator().manual_seed(9)))

        assert correlation(cleaned) < 0.5 * correlation(structured)
        pulled = RegularisedInversion(rolls=0)._cleaned(3 * noise(), 0)
        assert float(divergence(pulled)) < float(divergence(3 * noise()))

    def test_losses_by_hand(self):
        x = noise(8, 8)
        mean, variance = x.mean(), x.var()
        expected = variance + mean**2 - 1 - torch.log(variance + 1e-7)
        assert float(divergence(x)) == pytest.approx(float(expected))
        generator = torch.Generator().manual_seed(5)
        shifts = [int(torch.randint(4, (1,), generator=generator)) for _ in range(8)]
        total = 0.0
        for channel in range(4):
            for axis in (0, 1):
                moved = torch.roll(x[0, channel], shifts[2 * channel + axis], dims=axis)
                total += float((x[0, channel] * moved).mean()) ** 2
        found = autocorrelation(x, torch.Generator().manual_seed(5))
        assert float(found) == pytest.approx(total, rel=1e-5)

    def test_repeats(self, model):
        first, second = (RegularisedInversion()(model, noise(), steps=3).latents for _ in range(2))
        assert torch.equal(first, second)
