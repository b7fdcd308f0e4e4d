"""DDIM inversion and the honest reconstruction, on a tiny model of the real classes."""

from dataclasses import replace

import pytest
import torch

from freeprompt.core import Record, Sites, Tape, Trajectory, Window
from freeprompt.errors import ConfigError
from freeprompt.inversion import INVERSIONS, DDIMInversion, Inversion, reconstruct
from freeprompt.models import adapt, restored
from freeprompt.models.tiny import tiny_sd

STEPS = 3


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def either(request):
    return adapt(tiny_sd(prediction=request.param), "tiny")


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(), "tiny")


def latent(*size):
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))


CLEAN = latent(8, 8)


def invert(model, clean=CLEAN, iterations=0, steps=STEPS, **more):
    with torch.no_grad():
        return DDIMInversion(iterations=iterations)(model, clean, steps=steps, **more)


@pytest.fixture(scope="module")
def path(model):
    """A plain inversion of `CLEAN`."""
    return invert(model)


@pytest.fixture(scope="module")
def back(model, path):
    """Its reconstruction."""
    return reconstruct(model, path)


def error(model, path, clean):
    return float((reconstruct(model, path) - clean).norm() / clean.norm())


class Labels:
    """Timesteps that the UNet is called with, and the samples of every call."""

    def __init__(self, model):
        self.model, self.seen, self.samples = model, [], 0

    def __call__(self, module, args):
        self.seen.append(int(args[1]))
        self.samples += len(args[0])

    def __enter__(self):
        self.handle = self.model.pipe.unet.register_forward_pre_hook(self)
        return self

    def __exit__(self, *exc):
        self.handle.remove()


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def smooth(request):
    """A network whose answer depends on the latent as little as a trained one's: it contracts."""
    pipe = tiny_sd(prediction=request.param)
    pipe.unet.conv_out.weight.mul_(0.1)
    return adapt(pipe, "smooth")


def test_refinement_makes_the_round_trip_nearly_exact(smooth):
    """On a picture that is not square and whose grids round up."""
    clean = latent(5, 9)
    plain, refined = (
        error(smooth, invert(smooth, clean, iterations=n, steps=4), clean) for n in (0, 3)
    )
    assert plain > 1e-2
    assert refined < plain / 10


def test_the_trajectory_begins_at_the_image_bit_for_bit(either):
    path = invert(either, iterations=1)
    assert isinstance(path, Trajectory) and path.steps == STEPS
    assert torch.equal(path.clean, CLEAN)
    assert path.latents.dtype == CLEAN.dtype
    assert len({float(level.sum()) for level in path.latents}) == STEPS + 1


def test_replaying_the_noise_predictions_walks_the_trajectory_back(either):
    """With the inversion's own predictions each denoising step ends at the next latent."""
    path, schedule = invert(either), either.schedule(STEPS)
    text = either.encode_text([""])
    for i in range(STEPS):
        cleaner, noisier = path.after(i), path.latents[STEPS - i][None]
        with torch.no_grad():
            answer = either.predict(cleaner, schedule.timesteps[i], text)
        noise = schedule.noise(cleaner, answer, i)
        assert torch.allclose(schedule.unstep(cleaner, noise, i), noisier, atol=1e-5)
        assert torch.allclose(schedule.step(noisier, noise, i), cleaner, atol=1e-4)


@pytest.mark.parametrize("iterations", [0, 2])
def test_the_network_is_asked_with_the_label_of_the_noisier_end(model, iterations):
    timesteps, before = model.schedule(STEPS).timesteps, model.sample_forwards
    with Labels(model) as labels:
        invert(model, iterations=iterations)
    assert labels.seen == [t for t in reversed(timesteps) for _ in range(1 + iterations)]
    assert labels.samples == STEPS * (1 + iterations) == model.sample_forwards - before


def test_steps_are_numbered_as_in_denoising(model):
    """A window of the first steps is reached last here: step 0 is the noisiest."""
    tape = Tape()
    record = Record(sites=Sites("self:7"), window=Window(0, 2), tape=tape)
    with Labels(model) as labels:
        invert(model, controls=[record])
    assert sorted({key.step for key in tape.tensors}) == [0, 1]
    assert {(key.site, key.conditional) for key in tape.tensors} == {("mid.0.self", True)}
    assert labels.seen[::-1] == list(model.schedule(STEPS).timesteps)


def test_recording_does_not_change_the_inversion(model, path):
    record = Record(sites=Sites("self:all"), window=Window(0, STEPS), tape=Tape())
    assert torch.equal(invert(model, controls=[record]).latents, path.latents)


def test_the_last_evaluation_of_a_refined_step_is_the_one_recorded(model):
    """Where the step has led to, not where it came from."""
    tapes = [Tape(), Tape()]
    for tape, iterations in zip(tapes, (0, 2), strict=True):
        record = Record(sites=Sites("self:7"), window=Window(0, STEPS), tape=tape)
        invert(model, iterations=iterations, controls=[record])
    assert tapes[0].tensors.keys() == tapes[1].tensors.keys()
    noisy = min(tapes[0].tensors)
    assert not torch.equal(tapes[0].tensors[noisy], tapes[1].tensors[noisy])


def test_the_prompt_is_used_and_kept(model, path):
    told = invert(model, prompt="a red dog")
    assert (path.prompt, told.prompt) == ("", "a red dog")
    assert not torch.equal(path.start, told.start)
    other = replace(told, prompt="a blue cat")
    assert not torch.equal(reconstruct(model, told), reconstruct(model, other))


def test_what_was_used_is_remembered(model):
    assert invert(model, iterations=1, steps=1).provenance == {"steps": 1, "iterations": 1}


def test_the_callback_is_told_every_step(model):
    told = []
    path = invert(model, callback=told.append)
    assert [(p.phase, p.step, p.steps) for p in told] == [
        ("invert", i, STEPS) for i in range(STEPS)
    ]
    for progress in told:
        assert torch.equal(progress.state["source"], path.latents[progress.step + 1][None])


def test_an_exception_leaves_the_model_as_it_was(model):
    before = dict(model.pipe.unet.attn_processors)

    def stop(progress):
        raise KeyboardInterrupt

    record = Record(sites=Sites("self:all"), window=Window(0, STEPS), tape=Tape())
    with pytest.raises(KeyboardInterrupt):
        invert(model, controls=[record], callback=stop)
    after = model.pipe.unet.attn_processors
    assert all(after[path] is before[path] for path in before) and restored(model.pipe.unet)


def test_an_inversion_keeps_no_graph(model):
    """Weights that come from a folder want gradients; 50 steps of graph would fill any memory."""
    model.pipe.unet.requires_grad_(True)
    try:
        path = DDIMInversion()(model, CLEAN, steps=1)
    finally:
        model.pipe.unet.requires_grad_(False)
    assert not path.latents.requires_grad


def test_reconstructing_is_blind_to_the_trajectory(model, path, back):
    """It sees the start noise and the prompt; the stored image would always look perfect."""
    lied = path.latents.clone()
    lied[:-1] = 0
    assert torch.equal(reconstruct(model, replace(path, latents=lied)), back)
    lied[-1] = lied[-1] + 1
    assert not torch.equal(reconstruct(model, replace(path, latents=lied)), back)


def test_reconstructing_costs_one_sample_a_step_and_reports_it(model, path):
    before, told = model.sample_forwards, []
    with Labels(model) as labels:
        found = reconstruct(model, path, callback=told.append)
    assert labels.samples == STEPS == model.sample_forwards - before
    assert labels.seen == list(model.schedule(STEPS).timesteps)
    assert [(p.phase, p.step) for p in told] == [("reconstruct", i) for i in range(STEPS)]
    assert found.shape == CLEAN.shape and torch.equal(told[-1].state["source"], found)


def test_reconstructing_keeps_no_graph(model):
    path = invert(model, steps=1)
    model.pipe.unet.requires_grad_(True)
    try:
        assert not reconstruct(model, path).requires_grad
    finally:
        model.pipe.unet.requires_grad_(False)


def test_a_trajectory_that_was_saved_reconstructs_the_same(model, path, back, tmp_path):
    path.save(tmp_path / "t.safetensors")
    assert torch.equal(reconstruct(model, Trajectory.load(tmp_path / "t.safetensors")), back)


def test_too_many_steps_are_refused_before_any_work(model):
    before = model.sample_forwards
    with pytest.raises(ConfigError, match="1000 steps are too many"):
        invert(model, steps=1000)
    assert model.sample_forwards == before


@pytest.mark.parametrize("value", [-1, 2.5, "many", True, 101])
def test_iterations_are_a_whole_number(value):
    with pytest.raises(ConfigError, match=r"iterations of DDIMInversion must be a whole number"):
        DDIMInversion(iterations=value)


def test_it_is_registered():
    assert INVERSIONS["ddim"] is DDIMInversion and issubclass(DDIMInversion, Inversion)
    assert INVERSIONS["ddim"].build({"iterations": "3"}) == DDIMInversion(iterations=3)
