"""FPE against an independent, map-materialising implementation, and its exact invariants."""

import pytest
import torch
from tests.reference import Reference
from torch import nn

from freeprompt.core import SOURCE as SOURCE_ROWS
from freeprompt.core import TARGET as TARGET_ROWS
from freeprompt.core import TRIPLE, Record, Share, Sites, Tape, Window, denoise
from freeprompt.errors import ConfigError
from freeprompt.inversion import DDIMInversion
from freeprompt.methods import FPE, Task
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd

STEPS = 10
SOURCE, TARGET = "a red dog standing in the park", "a blue cat standing in the park"


@pytest.fixture
def start():
    return noise()


def noise(height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, height, width, generator=generator)


def task(start, *targets, source=SOURCE, steps=STEPS, guidance=7.5, **more):
    return Task(
        targets=targets or (TARGET,),
        source=source,
        start=start,
        steps=steps,
        guidance=guidance,
        **more,
    )


def gap(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("shape", [(16, 16), (12, 20)], ids=["square", "wide"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "guidance"),
    [(torch.float32, 1e-4, 3.0), (torch.float64, 1e-10, 7.5)],
    ids=["f32", "f64"],
)
class TestAgainstTheReference:
    """In float64 the two agree to rounding at full guidance.

    In float32 they agree to what the run makes of rounding: the first steps divide by a small
    number and guidance multiplies on top, so at 7.5 a random network carries 1e-7 up to 2e-4.
    """

    def both(self, prediction, dtype, guidance):
        pipe = tiny_sd(prediction=prediction)
        for module in (pipe.unet, pipe.text_encoder):
            nn.Module.to(module, dtype)  # past diffusers' advice on loading
        return adapt(pipe, "tiny"), Reference(pipe, STEPS, guidance)

    def test_generated(self, prediction, shape, dtype, tolerance, guidance):
        model, reference = self.both(prediction, dtype, guidance)
        start = noise(*shape).to(dtype)
        source, target = reference.edit_generated(SOURCE, TARGET, start)
        outcome = FPE()(model, task(start, guidance=guidance))
        assert gap(outcome.source, source) < tolerance
        assert gap(outcome.targets, target) < tolerance
        assert len(outcome.edited) == reference.swaps == int(STEPS * 0.8) * 11

    def test_real(self, prediction, shape, dtype, tolerance, guidance):
        model, reference = self.both(prediction, dtype, guidance)
        clean = noise(*shape).to(dtype) / 4
        latents, target = reference.edit_real(clean, TARGET)
        trajectory = DDIMInversion()(model, clean, steps=STEPS)
        assert gap(trajectory.latents, torch.cat(latents)) < tolerance
        real = task(trajectory.start, source="", trajectory=trajectory, guidance=guidance)
        outcome = FPE()(model, real)
        assert gap(outcome.targets, target) < tolerance
        assert len(outcome.edited) == reference.swaps == int(STEPS * 0.8) * 11


def test_a_window_that_begins_later(pipe, model, start):
    """Sharing from step 3 to step 5 of 10, as the reference does it, and not as from step 0."""
    _, target = Reference(pipe, STEPS, share=0.6, start=0.3).edit_generated(SOURCE, TARGET, start)
    outcome = FPE(share=0.6, start=0.3)(model, task(start))
    assert gap(outcome.targets, target) < 1e-3
    assert {step for step, _ in outcome.edited} == {3, 4, 5}
    assert gap(outcome.targets, FPE(share=0.6)(model, task(start)).targets) > 1e-2


def test_the_agreement_is_not_vacuous(pipe):
    """Without the swap the reference gives something far outside the tolerance."""
    _, target = Reference(pipe, STEPS).edit_generated(SOURCE, TARGET, noise())
    _, plain = Reference(pipe, STEPS, share=0).edit_generated(SOURCE, TARGET, noise())
    assert gap(target, plain) > 1e-2


class TestInvariants:
    @pytest.mark.parametrize("setting", [{"share": 0.0}, {"sites": "none"}])
    def test_nothing_shared_is_plain_generation(self, model, start, setting):
        plain = FPE(share=0)(model, task(start, TARGET, source=TARGET))
        outcome = FPE(**setting)(model, task(start))
        assert torch.equal(outcome.targets, plain.targets)
        assert not outcome.edited

    def test_nothing_shared_is_the_stock_pipeline(self, pipe, model):
        start = noise()
        stock = pipe(
            [SOURCE, TARGET],
            num_inference_steps=STEPS,
            guidance_scale=7.5,
            latents=start.expand(2, -1, -1, -1),
            output_type="latent",
        ).images
        outcome = FPE(share=0)(model, task(start))
        assert gap(torch.cat([outcome.source, outcome.targets]), stock) < 1e-4

    def test_nothing_shared_on_a_real_image_is_plain_generation_bit_for_bit(self, model, start):
        trajectory = DDIMInversion()(model, start, steps=STEPS)
        real = task(trajectory.start, source="", trajectory=trajectory)
        plain = denoise(
            model,
            model.schedule(STEPS),
            {"target": trajectory.start},
            text={"target": model.encode_text([TARGET])},
            null=model.encode_text([""]),
            rows=TARGET_ROWS,
        )
        outcome = FPE(share=0)(model, real)
        assert torch.equal(outcome.targets, plain.state["target"])

    def test_the_source_is_untouched(self, model, start):
        edited, plain = FPE()(model, task(start)), FPE(share=0)(model, task(start))
        assert torch.equal(edited.source, plain.source)
        assert gap(edited.targets, plain.targets) > 1e-3

    def test_equal_prompts_give_equal_pictures(self, model, start):
        outcome = FPE()(model, task(start, SOURCE))
        assert gap(outcome.targets, outcome.source) < 1e-5

    def test_only_the_conditional_target_row_changes(self, model, start):
        """The network's own answers in the first step, row by row."""
        edited, plain = (self.first_answer(model, start, FPE(share=s)) for s in (1, 0))
        assert torch.equal(edited[:3], plain[:3])
        assert not torch.equal(edited[3], plain[3])

    def first_answer(self, model, start, method):
        seen = []
        hook = model.pipe.unet.register_forward_hook(lambda *call: seen.append(call[-1][0]))
        method(model, task(start, steps=1))
        hook.remove()
        return seen[0].clone()

    @pytest.mark.parametrize("share", [0.05, 0.29, 0.5, 1])
    @pytest.mark.parametrize("sites", ["self:7", "self:below-top", "self:all"])
    def test_edited_pairs(self, model, share, sites):
        outcome = FPE(share=share, sites=sites)(model, task(noise(), steps=8))
        layers = len(Sites(sites).select(model.sites))
        assert len(outcome.edited) == int(8 * share) * layers

    def test_several_targets_equal_single_ones(self, model, start):
        both = FPE()(model, task(start, TARGET, "a green horse"))
        one = FPE()(model, task(start, "a green horse"))
        assert gap(both.targets[1:], one.targets) < 1e-5


class TestRealImages:
    @pytest.fixture
    def trajectory(self, model):
        return DDIMInversion()(model, noise(seed=3), steps=STEPS)

    def real(self, trajectory, **more):
        return task(trajectory.start, source="", trajectory=trajectory, **more)

    def test_taped_source_equals_in_batch_source(self, model, trajectory):
        """What a tape plays back is what the row beside it would have given, in each step."""
        tape, empty = Tape(), model.encode_text([""])
        everywhere = {"sites": Sites("self:below-top"), "window": Window.until(1, STEPS)}
        recorded = denoise(
            model,
            model.schedule(STEPS),
            {"source": trajectory.start},
            text={"source": empty},
            null=empty,
            rows=SOURCE_ROWS,
            controls=[Record(**everywhere, tape=tape)],
            replay=trajectory,
        )
        assert len(tape) == STEPS * 11 * 2
        assert not recorded.edited
        beside = self.one_step(model, trajectory, Share(**everywhere), TRIPLE)
        taped = self.one_step(model, trajectory, Share(**everywhere, tape=tape), TARGET_ROWS)
        plain = self.one_step(model, trajectory, Share(**everywhere, half="uncond"), TRIPLE)
        assert gap(taped, beside) < 2e-6
        assert gap(plain, beside) > 1e-3

    def one_step(self, model, trajectory, share, rows):
        done = denoise(
            model,
            model.schedule(STEPS),
            {"source": trajectory.after(3), "target": trajectory.after(3)},
            text={"source": model.encode_text([""]), "target": model.encode_text([TARGET])},
            null=model.encode_text([""]),
            rows=rows,
            controls=[share],
            guidance=1.0,
            start=4,
            stop=5,
        )
        return done.state["target"]

    def test_record_inversion_is_near_but_not_the_same(self, model):
        tape, method = Tape(), FPE(record="inversion")
        clean = noise(seed=3)
        observers = method.while_inverting(tape, STEPS)
        trajectory = DDIMInversion()(model, clean, steps=STEPS, controls=observers)
        taped = method(model, self.real(trajectory, tape=tape))
        beside = FPE()(model, self.real(trajectory))
        plain = FPE(share=0)(model, self.real(trajectory))
        assert len(taped.edited) == len(beside.edited)
        assert gap(taped.targets, beside.targets) > 0
        assert gap(taped.targets, plain.targets) > 0

    def test_half_both_reads_the_unconditional_source(self, model, trajectory):
        """With an empty source prompt both halves of the source are one row; with a prompt two."""
        model.sample_forwards = 0
        FPE(half="both")(model, self.real(trajectory))
        assert model.sample_forwards == 3 * 8 + 2 * 2
        spoken = DDIMInversion()(model, noise(seed=3), steps=STEPS, prompt=SOURCE)
        model.sample_forwards = 0
        FPE(half="both")(model, task(spoken.start, trajectory=spoken))
        assert model.sample_forwards == 4 * 8 + 2 * 2

    def test_half_uncond_changes_the_other_half_only(self, model):
        """From the second step on the branches differ, so the unconditional maps do too."""
        plain, cond, uncond, both = (
            FPE(share=share, half=half)(model, task(noise(), steps=4)).targets
            for share, half in [(0, "cond"), (1, "cond"), (1, "uncond"), (1, "both")]
        )
        assert min(gap(plain, uncond), gap(cond, uncond), gap(cond, both), gap(uncond, both)) > 1e-4

    def test_a_free_source_walks_by_itself(self, model, trajectory):
        pinned = FPE()(model, self.real(trajectory))
        free = FPE(replay=False)(model, self.real(trajectory))
        assert gap(pinned.targets, free.targets) > 1e-6


@pytest.mark.parametrize("guidance", [0.5, 1.0])
def test_without_guidance_there_are_no_unconditional_rows_and_it_edits(model, guidance):
    model.sample_forwards = 0
    edited = FPE()(model, task(noise(), guidance=guidance))
    assert model.sample_forwards == 2 * STEPS
    plain = FPE(share=0)(model, task(noise(), guidance=guidance))
    assert gap(edited.targets, plain.targets) > 1e-4
    assert torch.equal(edited.source, plain.source)


def test_a_window_that_is_empty_is_refused():
    with pytest.raises(ConfigError, match=r"begins at start=0.6 and ends at share=0.5"):
        FPE(share=0.5, start=0.6)
    assert FPE(share=0.0).start == 0.0  # plain generation, as before
