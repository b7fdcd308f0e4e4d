"""Imagic: against the three steps written out by hand, and the model given back as it was."""

import threading
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from tests.api.samples import (
    SOURCE,
    TARGET,
    photo,
    same,
    small_sd,
    state_of,
    thin_sd,
    told,
    watched,
)

import freeprompt as fp
from freeprompt.core import DDIM, Text, Trajectory, denoise
from freeprompt.core import TARGET as TARGET_ROWS
from freeprompt.core.fitting import Fit
from freeprompt.core.objective import Objective
from freeprompt.errors import AlreadyAttached, ConfigError
from freeprompt.methods import Imagic, Task
from freeprompt.models import adapt
from freeprompt.models.fingerprint import fingerprint

FEW = {"method": "imagic", "steps": 2, "embedding_steps": 3, "model_steps": 2}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipe(request):
    return small_sd(request.param)


@pytest.fixture(scope="module")
def editor():
    return fp.Editor(thin_sd(), name="small")


def edited(editor, target=TARGET, **more):
    return editor.edit(target, **{"image": photo(), **FEW, **more})


def loss_by_hand(pipe, clean, states, t, noise):
    """The training loss as diffusers' own scheduler and the papers have it."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    when = torch.tensor([t])
    noisy = scheduler.add_noise(clean, noise, when)
    wanted = noise
    if scheduler.config.prediction_type == "v_prediction":
        wanted = scheduler.get_velocity(clean, noise, when)
    return F.mse_loss(pipe.unet(noisy, when, encoder_hidden_states=states).sample, wanted)


def test_the_loss_is_that_of_training(pipe):
    model = adapt(pipe, "small")
    objective = Objective(schedule=model.schedule(5), seed=3)
    clean = torch.randn(1, 4, 8, 8)
    text = model.encode_text([TARGET])
    for draw in range(3):
        ours = objective.loss(model, clean, text, draw)
        noise, t = objective.noise(clean, draw), objective.timestep(draw)
        theirs = loss_by_hand(pipe, clean, text.states, t, noise)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_draws_are_spread_over_all_noise_levels():
    objective = Objective(schedule=DDIM(steps=4), seed=1)
    times = sorted(objective.timestep(draw) for draw in range(50))
    assert max(b - a for a, b in zip([0, *times], [*times, 999], strict=True)) < 60
    again = Objective(schedule=DDIM(steps=50), seed=1)
    assert [again.timestep(i) for i in range(9)] == [objective.timestep(i) for i in range(9)]
    assert objective.timestep(0) != Objective(schedule=DDIM(steps=4), seed=2).timestep(0)
    like = torch.zeros(1, 4, 8, 8)
    assert torch.equal(objective.noise(like, 7), again.noise(like, 7))
    assert not torch.equal(objective.noise(like, 7), objective.noise(like, 8))


def test_it_is_the_paper_by_hand(pipe):
    """Embedding, then all weights, by a plain Adam; then DDIM from the blend of both embeddings."""
    model = adapt(pipe, "small")
    clean = torch.randn(1, 4, 8, 8)
    how = Imagic(mix=0.6, embedding_steps=2, model_steps=2, model_rate=1e-3)
    start = {"start": clean, "trajectory": Trajectory(latents=clean)}
    task = Task(targets=(TARGET,), source=SOURCE, steps=3, guidance=4.0, seed=5, **start)
    ours = how(model, task).targets

    other = deepcopy(pipe)
    hand = adapt(other, "hand")
    objective = Objective(schedule=model.schedule(3), seed=5)
    wanted = hand.encode_text([TARGET]).states.detach()
    found = wanted.clone().requires_grad_()
    adam = torch.optim.Adam([found], lr=how.embedding_rate)
    draws = [(objective.timestep(i), objective.noise(clean, i)) for i in range(4)]
    with torch.enable_grad():
        for t, noise in draws[:2]:
            (found.grad,) = torch.autograd.grad(loss_by_hand(other, clean, found, t, noise), found)
            adam.step()
        found = found.detach()
        weights = list(other.unet.requires_grad_(True).parameters())
        adam = torch.optim.Adam(weights, lr=how.model_rate)
        for t, noise in draws[2:]:
            adam.zero_grad()
            loss_by_hand(other, clean, found, t, noise).backward()
            adam.step()
    other.unet.requires_grad_(False)
    text = Text(0.6 * wanted + 0.4 * found)
    by_hand = denoise(
        hand,
        hand.schedule(3),
        {"target": task.draw(clean, 1)[0]},
        text={"target": text},
        null=hand.encode_text([""]),
        rows=TARGET_ROWS,
        guidance=4.0,
    )
    assert torch.allclose(ours, by_hand.state["target"], atol=1e-4)
    plain = how.build({**how.to_dict(), "model_rate": 0.0})(model, task).targets
    assert not torch.allclose(ours, plain, atol=1e-3)


class TestTheModelIsGivenBack:
    def test_after_an_edit(self, editor):
        before, print_before = state_of(editor.pipe), fingerprint(editor.pipe)
        edited(editor)
        assert state_of(editor.pipe) == before and fingerprint(editor.pipe) == print_before

    @pytest.mark.parametrize("phase", ["optimise", "tune", "edit"])
    def test_after_an_interruption(self, editor, phase):
        before, tensors = (
            state_of(editor.pipe),
            [p.data_ptr() for p in editor.pipe.unet.parameters()],
        )

        def stop(progress):
            if progress.phase == phase:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            edited(editor, callback=stop)
        assert state_of(editor.pipe) == before
        assert [p.data_ptr() for p in editor.pipe.unet.parameters()] == tensors

    def test_with_weights_that_ask_for_gradients(self):
        editor = fp.Editor(small_sd(), name="small")
        editor.pipe.unet.requires_grad_(True)
        edited(editor)
        assert all(p.requires_grad and p.grad is None for p in editor.pipe.unet.parameters())

    def test_no_other_thread_edits_with_the_trained_weights(self, editor):
        errors = []

        def intrude():
            try:
                editor.edit(TARGET, source=SOURCE, steps=2)
            except AlreadyAttached as error:
                errors.append(error)

        def during(progress):
            if progress.phase == "tune" and progress.step == 0:
                other = threading.Thread(target=intrude)
                other.start()
                other.join()

        edited(editor, callback=during)
        assert len(errors) == 1


class TestWhatIsKept:
    def test_another_mix_trains_nothing_and_is_the_same(self, editor, tmp_path):
        first = edited(editor, keep=tmp_path)
        plain = edited(editor, mix=0.3)
        with watched(editor.pipe) as seen:
            again = edited(editor, keep=tmp_path, mix=0.3)
        assert seen.samples == 2 * 2
        assert same(again.images[0], plain.images[0])
        assert not same(again.images[0], first.images[0])
        assert len(list(tmp_path.iterdir())) == 2
        assert again.provenance.parameters == plain.provenance.parameters

    @pytest.mark.parametrize("phase", ["optimise", "tune"])
    def test_what_was_interrupted_goes_on(self, editor, tmp_path, phase):
        def stop(progress):
            if progress.phase == phase and progress.step == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            edited(editor, keep=tmp_path, callback=stop)
        with watched(editor.pipe) as seen:
            again = edited(editor, keep=tmp_path)
        done = 1 if phase == "optimise" else FEW["embedding_steps"] + 1
        assert seen.samples == FEW["embedding_steps"] + FEW["model_steps"] - done + 2 * 2
        assert same(again.images[0], edited(editor).images[0])

    def test_another_image_seed_or_setting_is_another_state(self, editor, tmp_path):
        for more in ({}, {"image": photo(seed=1)}, {"seed": 1}, {"embedding_rate": 1e-3}):
            edited(editor, keep=tmp_path, **more)
        edited(editor, "a green car", keep=tmp_path)
        assert len(list(tmp_path.iterdir())) == 2 * 5

    def test_nothing_is_written_unasked(self, editor, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        edited(editor)
        assert list(tmp_path.iterdir()) == []

    def test_a_damaged_state_is_told(self, editor, tmp_path):
        edited(editor, keep=tmp_path)
        for file in tmp_path.iterdir():
            file.write_bytes(b"nothing")
        with pytest.raises(ConfigError, match=r"is not the state of this training.*Remove it"):
            edited(editor, keep=tmp_path)

    def test_only_for_methods_that_learn(self, editor, tmp_path):
        with pytest.raises(ConfigError, match=r"fpe learns nothing.*it is for imagic"):
            editor.edit(TARGET, source=SOURCE, keep=tmp_path, steps=2)
        file = tmp_path / "file"
        file.write_text("x")
        with pytest.raises(ConfigError, match="keep must name a folder"):
            edited(editor, keep=file)


def test_without_a_mix_the_source_stays_and_nothing_is_trained(editor):
    with told() as messages, watched(editor.pipe) as seen:
        none = edited(editor, mix=0)
    assert seen.samples == 0 and any("nothing was edited" in m for m in messages)
    assert same(none.images[0], none.inverted.restore_size(none.inverted.round_trip))


def test_training_brings_the_picture_nearer_to_the_source(pipe):
    """What is drawn from the embedding found has a smaller loss than the target prompt had."""
    model = adapt(pipe, "small")
    clean = torch.randn(1, 4, 8, 8)
    objective = Objective(schedule=model.schedule(3), seed=9)
    wanted = model.encode_text([TARGET])

    def loss(text):
        return float(torch.stack([objective.loss(model, clean, text, i) for i in range(16)]).mean())

    before, during = loss(wanted), []

    def ask(progress):
        if progress.phase == "edit":
            during.append(loss(wanted))

    start = {"start": clean, "trajectory": Trajectory(latents=clean)}
    task = Task(targets=(TARGET,), source="", steps=1, guidance=4.0, seed=5, callback=ask, **start)
    Imagic(embedding_steps=5, model_steps=25, model_rate=2e-3, embedding_rate=1e-2)(model, task)
    assert during[0] < 0.9 * before
    assert loss(wanted) == before


def test_float16_is_refused_before_any_work():
    editor = fp.Editor(small_sd(), name="small")
    editor.pipe.unet.half()
    with watched(editor.pipe) as seen, pytest.raises(ConfigError, match=r"float16.*bfloat16"):
        edited(editor)
    assert seen.samples == 0


def test_a_fit_goes_on_where_it_was():
    torch.manual_seed(0)
    start = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    slopes = [[torch.randn(3), torch.randn(2, 2)] for _ in range(6)]
    whole, first = Fit(start, 0.1, clip=1.0), Fit(start, 0.1, clip=1.0)
    whole.to(6, slopes.__getitem__, lambda step: None)
    first.to(3, slopes.__getitem__, lambda step: None)
    second = Fit({name: torch.zeros_like(x) for name, x in start.items()}, 0.1, clip=1.0)
    second.restore(first.pack())
    second.to(6, slopes.__getitem__, lambda step: None)
    for name in start:
        assert torch.equal(whole.values[name], second.values[name])
    assert set(whole.pack(finished=True)) == {"value/a", "value/b", "steps"}
