"""What is trained on top of emoji-sd: it learns, it resumes, it can be edited with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import freeprompt as fp
from freeprompt.cli.train import app
from freeprompt.errors import ConfigError
from freeprompt.train.conditioned import CONFIGS, Base, config_of, noisy_timesteps
from freeprompt.train.hints import AdapterTask, ControlNetTask, mask_image, train_hints
from freeprompt.train.instruct import (
    InstructTask,
    edit_of,
    pair_at,
    train_instruct,
    with_picture_channels,
)
from freeprompt.train.loop import Run, Trainer
from freeprompt.world import is_held_out

CPU = torch.device("cpu")
TASKS = {"controlnet": ControlNetTask, "adapter": AdapterTask, "instruct": InstructTask}


@pytest.fixture(scope="module")
def base(runs: Path) -> Base:
    return Base(runs / "pipeline", CPU)


def errors(task, seen):
    latents, _, tokens, timesteps, noise = task.prepare(task.held_out, 0)
    with torch.no_grad():
        return task.errors(latents, seen, tokens, timesteps, noise)


def parts(task):
    return task.prepare(task.held_out, 0)


@pytest.mark.parametrize("kind", ["controlnet", "instruct"])
def test_it_begins_as_the_base(base, kind):
    """Silent outputs of a ControlNet, zero weights for the picture: nothing is changed at first."""
    task = TASKS[kind](base, CONFIGS["tiny"], 2)
    seen = parts(task)[1]
    latents, _, tokens, timesteps, noise = parts(task)
    with torch.no_grad():
        plain = task.errors(latents, None, tokens, timesteps, noise)
        assert torch.allclose(errors(task, seen), plain, atol=1e-6)


@pytest.mark.parametrize("kind", list(TASKS))
def test_it_learns_one_batch_by_heart(base, kind, tmp_path):
    config = replace(CONFIGS["tiny"], steps=30, rate=3e-3)
    torch.manual_seed(0)
    task = TASKS[kind](base, config, 2)
    trainer = Trainer(task, config, Run(folder=tmp_path))
    batch = task.draw(0)
    losses = []
    for _ in range(30):
        losses.append(trainer.update(batch)[0])
        trainer.step = 5  # past the warm-up, with the same noise each time
    assert losses[-1] < 0.999 * losses[1], losses  # the first had other noise


@pytest.mark.parametrize("kind", list(TASKS))
def test_the_base_is_left_as_it_was(base, kind, tmp_path):
    before = {name: value.clone() for name, value in base.pipe.unet.state_dict().items()}
    task = TASKS[kind](base, CONFIGS["tiny"], 2)
    Trainer(task, CONFIGS["tiny"], Run(folder=tmp_path)).update(task.draw(0))
    assert all(torch.equal(before[n], x) for n, x in base.pipe.unet.state_dict().items())
    assert not any(p.requires_grad for p in base.pipe.unet.parameters())


def test_a_resumed_run_is_the_uninterrupted_one(runs, tmp_path):
    whole = train_hints("adapter", runs / "pipeline", Run(folder=tmp_path / "a"), CPU, "tiny")
    stopped = Run(folder=tmp_path / "b", stop=lambda: True)
    train_hints("adapter", runs / "pipeline", stopped, CPU, "tiny")
    go_on = Run(folder=tmp_path / "b", resume=True)
    parts = train_hints("adapter", runs / "pipeline", go_on, CPU, "tiny")
    file = "diffusion_pytorch_model.safetensors"
    assert (whole / file).read_bytes() == (parts / file).read_bytes()


def test_what_comes_out_can_be_edited_with(runs, tmp_path):
    given = {"steps": 2, "source": "a red car", "seed": 1}
    plain = fp.load(runs / "pipeline", device="cpu").edit("a blue car", **given)
    for kind in ("controlnet", "adapter"):
        folder = train_hints(kind, runs / "pipeline", Run(folder=tmp_path / kind), CPU, "tiny")
        editor = fp.load(runs / "pipeline", device="cpu", **{kind: [folder]})
        control = mask_image(np.eye(32, dtype=bool))
        made = editor.edit("a blue car", control_image=control, **given)
        assert made.images[0].tobytes() != plain.images[0].tobytes()


def test_an_instruct_model_can_be_edited_with(runs, tmp_path):
    run = Run(folder=tmp_path)
    folder = train_instruct(runs / "pipeline", run, CPU, "tiny", seed=3)
    editor = fp.load(folder, device="cpu")
    picture = pair_at(0, 0)[0].render(32).image
    made = editor.edit("a blue car", image=picture, method="instruct-pix2pix", steps=2)
    assert made.images[0].size == (32, 32)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert {"step", "held_out", "blind"} <= last.keys()
    assert next(tmp_path.glob("sheet-*.png")).stat().st_size > 1000


def test_pairs_are_exact_edits_that_training_may_see():
    for index in range(40):
        scene, edited = pair_at(7, index)
        changed = {k for k, v in scene.to_dict().items() if v != edited.to_dict()[k]} - {"design"}
        assert len(changed) == 1 and changed <= {"color", "subject", "place", "style"}
        assert not is_held_out(edited)
        assert pair_at(7, index) == (scene, edited)
    again = edit_of(pair_at(7, 0)[0], np.random.default_rng([7, 0, 1]))
    assert again == pair_at(7, 0)[1]


def test_the_new_channels_see_nothing_yet(base):
    wide = with_picture_channels(base.pipe.unet)
    assert wide.conv_in.weight.shape[1] == 8 and not wide.conv_in.weight[:, 4:].any()


def test_what_is_dropped_is_dropped_alone(base):
    """Of many pairs some lack the text, some the picture and some both, each about a twentieth."""
    task = InstructTask(base, replace(CONFIGS["tiny"], batch=60), 2)
    empty = base.read([""])[0]
    kinds = []
    for step in range(5):
        _, before, tokens = task.draw(step)
        blind = (before == 0).flatten(1).all(1)
        kinds += list(zip((tokens == empty).all(1).tolist(), blind.tolist(), strict=True))
    shares = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert set(shares) == {(False, False), (True, False), (False, True), (True, True)}
    assert all(0.01 < share < 0.12 for kind, share in shares.items() if any(kind))


def test_timesteps_lean_to_noise():
    drawn = noisy_timesteps(1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0 and drawn.max() <= 999
    assert 700 < drawn.float().mean() < 800  # 3/4 of 1000 for 1 - u^3


def test_presets():
    assert config_of("cpu64", steps=3).steps == 3
    with pytest.raises(ConfigError, match="preset"):
        config_of("huge")
    with pytest.raises(ConfigError, match="above 0"):
        config_of("tiny", batch=0)


def test_commands(runs, tmp_path):
    for kind in ("controlnet", "adapter", "instruct"):
        arguments = [kind, "--run", str(tmp_path / kind), "--base", str(runs / "pipeline")]
        arguments += ["--preset", "tiny", "--steps", "1", "--device", "cpu"]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert str(tmp_path / kind / kind) in result.output
