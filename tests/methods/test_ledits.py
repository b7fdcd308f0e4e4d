"""LEDITS++ against its sums and masks written out by hand, and how targets are read."""

import math

import numpy as np
import pytest
import torch
from tests.core.handmade import randn
from tests.reference import Reference

from freeprompt.core.concepts import place_of_change, place_of_words
from freeprompt.errors import ConfigError, MissingSource
from freeprompt.inversion import EditFriendlyInversion, reconstruct
from freeprompt.methods import EditFriendly, LEdits, Task
from freeprompt.methods.ledits import concepts_of

STEPS, GUIDANCE, SHARE = 4, 5.0, 0.75
CLEAN = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def path(model):
    return EditFriendlyInversion(skip=0.25, last_noise=True)(model, CLEAN, steps=STEPS, seed=5)


def task(path, *targets, guidance=GUIDANCE):
    return Task(
        targets=targets,
        source=path.prompt,
        start=path.start,
        steps=STEPS,
        guidance=guidance,
        trajectory=path,
    )


def gap(a, b):
    return float((a - b).abs().max())


class Peek:
    """Materialises one cross-attention's map, and keeps it."""

    def __init__(self, name, run):
        self.name, self.run = name, run

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
        probs = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        if encoder_hidden_states is not None and self.name.startswith(self.run.places):
            self.run.maps.append(probs)
        return attn.to_out[1](attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2)))


class ByHand(Reference):
    """One target's concepts, one forward each: [(prompt, its number of tokens, scale)]."""

    places = ("down_blocks.2", "up_blocks.1")  # 4 x 4 of 16 x 16, without the middle

    def edit(self, path, concepts, masks, acts=range(STEPS)):
        saved = dict(self.unet.attn_processors)
        self.unet.set_attn_processor(
            {name: Peek(name.removesuffix(".processor"), self) for name in saved}
        )
        x = path.latents[STEPS - path.first][None]
        try:
            for i in range(path.first, STEPS):
                x = self.step(x, i, path.noises[i], concepts if i in acts else (), masks)
        finally:
            self.unet.set_attn_processor(dict(saved))
        return x

    def step(self, x, i, z, concepts, masks):
        t = self.labels[STEPS - 1 - i]
        self.maps = []
        uncond = self._network(x, t, [("", 0)])
        noise = uncond
        for prompt, tokens, scale in concepts:
            self.maps = []
            push = scale * (self._network(x, t, [(prompt, 0)]) - uncond)
            noise = noise + torch.from_numpy(self.mask(push[0].numpy(), tokens, masks)) * push
        x0, noise = self._split(x, t, noise)
        a, b = float(self.alphas[t]), float(self._level(t - self.stride))
        sigma = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        mean = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * noise
        return (mean + sigma * z).to(x.dtype)

    def mask(self, push, tokens, masks):
        mask = np.ones((16, 16), np.float32)
        if "words" in masks:
            looked = sum(m[0, :, :, 1 : 1 + tokens].mean(0).sum(-1) for m in self.maps)
            mask *= np.kron(cut(smooth(looked.view(4, 4).numpy())), np.ones((4, 4), np.float32))
        if "noise" in masks:
            mask *= cut(np.abs(push).sum(0))
        return mask


def smooth(x):
    """3 x 3 Gaussian of deviation 0.5, the border repeated."""
    side = math.exp(-2)
    kernel = np.array([side, 1, side]) / (1 + 2 * side)
    padded = np.pad(x, 1, mode="edge")
    rows = sum(w * padded[:, j : j + x.shape[1]] for j, w in enumerate(kernel))
    return sum(w * rows[j : j + x.shape[0]] for j, w in enumerate(kernel))


def cut(x):
    return (x >= np.quantile(x, SHARE)).astype(np.float32)


MASKS = {"both": ("words", "noise"), "words": ("words",), "noise": ("noise",), "none": ()}


@pytest.mark.parametrize("masks", MASKS)
def test_concepts_by_hand(model, path, masks):
    """Two concepts, one of them taken away, with scales of their own; masks in explicit sums."""
    method = LEdits(masks=masks, threshold=SHARE, scales="a blue cat=9")
    made = method(model, task(path, "a blue cat; -dog")).targets
    concepts = [("a blue cat", 3, 9.0), ("dog", 1, -GUIDANCE)]
    wanted = ByHand(model.pipe, STEPS).edit(path, concepts, MASKS[masks])
    moved = gap(reconstruct(model, path), made)
    assert moved > 0.1
    # a place on the brink of a quantile may fall to either side, and then differs by a lot
    assert float(((made - wanted).abs() > 1e-3 * moved).float().mean()) < 0.01


def test_targets_with_other_numbers_of_concepts_in_one_batch(model, path):
    targets = ("a blue cat; -dog", "a car")
    together = LEdits(threshold=SHARE)(model, task(path, *targets)).targets
    for i, target in enumerate(targets):
        alone = LEdits(threshold=SHARE)(model, task(path, target)).targets
        close = (together[i] - alone[0]).abs() < 1e-3
        assert float(close.float().mean()) > 0.99


def test_without_masks_one_concept_is_plain_guidance(model, path):
    made = LEdits(masks="none")(model, task(path, "a blue cat")).targets
    plain = EditFriendly()(model, task(path, "a blue cat")).targets
    assert torch.allclose(made, plain, rtol=0, atol=1e-4)


def test_outside_its_window_nothing_is_guided(model, path):
    """Without a source prompt that is the reconstruction, which is the image."""
    idle = LEdits(until=0.0)(model, task(path, "a blue cat"))
    assert torch.allclose(idle.targets, CLEAN, rtol=0, atol=1e-5) and not idle.acted
    method = LEdits(warmup=0.5, until=0.75, masks="none")
    made = method(model, task(path, "a blue cat")).targets
    concepts = [("a blue cat", 3, GUIDANCE)]
    wanted = ByHand(model.pipe, STEPS).edit(path, concepts, (), acts=range(2, 3))
    assert gap(made, wanted) < 1e-3 and gap(made, CLEAN) > 1e-2


def test_the_share_of_the_picture_that_a_mask_leaves_out():
    change, maps = randn(4, 16, 20).float(), randn(4, 5).abs().float()
    for share in (0.0, 0.5, 0.9):
        inside = float(place_of_change(change, share).mean())
        assert inside == pytest.approx(1 - share, abs=0.01)
        words = place_of_words(maps, (16, 20), share)
        assert words.shape == (16, 20) and set(words.unique().tolist()) <= {0.0, 1.0}
        assert float(words.mean()) == pytest.approx(1 - share, abs=0.06)


def test_work_is_one_row_a_concept_and_one_for_all(model, path):
    seen = []
    hook = model.pipe.unet.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    LEdits()(model, task(path, "a car; -dog; a cat", "a tree"))
    hook.remove()
    assert seen == [2 + 4] * 3


def test_a_trajectory_without_noises_is_refused(model):
    plain = Task(targets=("a car",), source="", start=CLEAN, steps=2, guidance=3)
    with pytest.raises(MissingSource, match="noises"):
        LEdits()(model, plain)


@pytest.mark.parametrize(
    ("target", "concepts"),
    [
        ("a red car", [("a red car", 1)]),
        ("a red car; -tree", [("a red car", 1), ("tree", -1)]),
        (" - old tree ;snow;", None),
        ("-old tree;snow", [("old tree", -1), ("snow", 1)]),
        ("blue-green car", [("blue-green car", 1)]),
        ("-", None),
        (";", None),
    ],
)
def test_reading_targets(target, concepts):
    if concepts is None:
        with pytest.raises(ConfigError, match="'a red car; -tree'"):
            concepts_of(target)
    else:
        assert concepts_of(target) == concepts


def test_scales_of_concepts_that_are_not_there_are_refused_before_any_work():
    method = LEdits(scales="a blue cat=4,tree=10")
    method.check(["a blue cat; -tree"])
    with pytest.raises(ConfigError, match="did you mean 'trees'"):
        method.check(["a blue cat; -trees"])
    with pytest.raises(ConfigError, match="word=number"):
        LEdits(scales="tree").check(["tree"])
