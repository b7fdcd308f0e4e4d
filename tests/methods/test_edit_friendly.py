"""Edit-friendly editing, and the same noises under two-branch methods, by hand."""

import math

import pytest
import torch
from tests.reference import Reference, below_top_layers

from freeprompt.errors import MissingSource
from freeprompt.inversion import DDIMInversion, EditFriendlyInversion, reconstruct
from freeprompt.methods import FPE, P2P, EditFriendly, Task

STEPS, GUIDANCE = 5, 4.0
SOURCE, TARGET = "a red dog", "a blue cat"
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def path(model):
    return EditFriendlyInversion(skip=0.2, last_noise=True)(
        model, CLEAN, steps=STEPS, prompt=SOURCE, seed=5
    )


def task(path, *targets, guidance=GUIDANCE, **more):
    return Task(
        targets=targets or (TARGET,),
        source=path.prompt,
        start=path.start,
        steps=STEPS,
        guidance=guidance,
        trajectory=path,
        **more,
    )


class ByHand(Reference):
    """DDPM sampling with given noises, in the words of its paper."""

    def ddpm(self, x, t, answer, z):
        x0, noise = self._split(x, t, answer)
        a, b = float(self.alphas[t]), float(self._level(t - self.stride))
        sigma = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        mean = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * noise
        return (mean + sigma * z).to(x.dtype)

    def edit(self, path, prompt):
        x = path.latents[STEPS - path.first][None]
        for i in range(path.first, STEPS):
            t = self.labels[STEPS - 1 - i]
            uncond, cond = (self._network(x, t, [(p, 0)]) for p in ("", prompt))
            x = self.ddpm(x, t, uncond + self.guidance * (cond - uncond), path.noises[i])
        return x

    def edit_with_maps(self, path, prompt, swap, shared):
        """The same with the self-attention maps of the source's own latents."""
        x = path.latents[STEPS - path.first][None]
        rows = [(SOURCE, 0), ("", 1), (prompt, 1)]
        with self._materialised(swap):
            for i in range(path.first, STEPS):
                t, swap.active = self.labels[STEPS - 1 - i], i < shared
                source = path.latents[STEPS - i][None]
                answer = self._network(torch.cat([source, x]), t, rows)
                guided = answer[1:2] + self.guidance * (answer[2:] - answer[1:2])
                x = self.ddpm(x, t, guided, path.noises[i])
        return x


def gap(a, b):
    return float((a - b).abs().max())


def test_against_ddpm_by_hand(model, path):
    made = EditFriendly()(model, task(path, TARGET, "a green horse"))
    by_hand = ByHand(model.pipe, STEPS, GUIDANCE)
    for latent, prompt in zip(made.targets, (TARGET, "a green horse"), strict=True):
        assert gap(latent, by_hand.edit(path, prompt)[0]) < 1e-3
    assert gap(made.targets[0], made.targets[1]) > 1e-1
    assert made.source is None and made.acted


def test_the_source_prompt_at_the_sources_guidance_gives_the_image_back(model, path):
    same = EditFriendly()(model, task(path, SOURCE, guidance=path.guidance))
    assert torch.allclose(same.targets, CLEAN, rtol=0, atol=1e-5)
    assert torch.allclose(same.targets, reconstruct(model, path), rtol=0, atol=1e-5)


def test_more_skipped_keeps_more(model):
    kept = []
    for skip in (0.0, 0.6):
        found = EditFriendlyInversion(skip=skip)(model, CLEAN, steps=STEPS, prompt=SOURCE)
        made = EditFriendly()(model, task(found))
        kept.append(float((made.targets - CLEAN).norm()))
    assert kept[1] < 0.8 * kept[0]


def test_free_prompt_editing_on_these_noises_by_hand(model, path):
    """The source is its own latents, which only the inversion's noises connect."""
    from tests.reference import MapSwap

    swap = MapSwap(pairs=[(0, 2)], layers=below_top_layers(model.pipe.unet))
    by_hand = ByHand(model.pipe, STEPS, GUIDANCE)
    wanted = by_hand.edit_with_maps(path, TARGET, swap, shared=3)
    made = FPE(share=0.6)(model, task(path)).targets
    assert gap(made, wanted) < 1e-3
    assert gap(made, by_hand.edit(path, TARGET)) > 1e-2
    assert swap.swaps == 11 * 2  # eleven layers in steps 1 and 2: step 0 is left out


def test_prompt_to_prompt_on_these_noises_keeps_the_source_where_nothing_differs(model, path):
    """Equal prompts and all maps shared: the target is the source, at its guidance."""
    method = P2P(cross=1, share=1, sites="self:all")
    made = method(model, task(path, SOURCE, guidance=path.guidance))
    assert torch.allclose(made.targets, CLEAN, rtol=0, atol=1e-4)
    moved = method(model, task(path, guidance=path.guidance))
    assert gap(moved.targets, CLEAN) > 1e-3


def test_a_trajectory_without_noises_is_refused(model):
    plain = DDIMInversion()(model, CLEAN, steps=STEPS)
    for trajectory in (plain, None):
        given = Task(
            targets=(TARGET,),
            source="",
            start=plain.start,
            steps=STEPS,
            guidance=2,
            trajectory=trajectory,
        )
        with pytest.raises(MissingSource, match="edit-friendly"):
            EditFriendly()(model, given)
