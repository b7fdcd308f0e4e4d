"""Latents from clean to noise: order, files, and what is no such file."""

import pytest
import torch
from tests.core.handmade import randn

from freeprompt.core import DDIM, Text, Trajectory
from freeprompt.errors import ConfigError


def trajectory(**more):
    return Trajectory(latents=randn(5, 4, 2, 3, dtype=torch.float32), **more)


def test_latents_run_from_clean_to_noise():
    path = trajectory()
    assert path.steps == 4
    assert torch.equal(path.clean, path.latents[:1])
    assert torch.equal(path.start, path.latents[4:])


def test_after_a_denoising_step_comes_the_next_cleaner_latent():
    """Step 0 is the noisiest: it starts at x_4 and ends at x_3; step 3 ends at the image."""
    path = trajectory()
    for step, level in enumerate((3, 2, 1, 0)):
        assert torch.equal(path.after(step), path.latents[level : level + 1])
    assert torch.equal(path.after(3), path.clean)


@pytest.mark.parametrize("null", [None, randn(4, 7, 6, dtype=torch.float16)])
def test_a_saved_trajectory_comes_back(null, tmp_path):
    provenance = {"steps": 4, "iterations": 0, "model": "tiny", "ä": [1, 2.5, None, True]}
    path = trajectory(prompt='a "red" dög\n', null=null, provenance=provenance)
    path.save(tmp_path / "t.safetensors")
    back = Trajectory.load(str(tmp_path / "t.safetensors"))
    assert torch.equal(back.latents, path.latents) and back.latents.dtype == torch.float32
    assert back.prompt == path.prompt and back.provenance == provenance
    assert back.null is None if null is None else torch.equal(back.null, null)


def test_all_that_an_inversion_found_comes_back(tmp_path):
    path = trajectory(
        noises=randn(4, 4, 2, 3, dtype=torch.float32),
        null=randn(1, 7, 6, dtype=torch.float32),
        eta=0.5,
        first=1,
        guidance=3.5,
        negative="blurry",
        proximal=0.7,
    )
    path.save(tmp_path / "t.safetensors")
    back = Trajectory.load(tmp_path / "t.safetensors")
    assert torch.equal(back.noises, path.noises) and torch.equal(back.null, path.null)
    for name in ("eta", "first", "guidance", "negative", "proximal"):
        assert getattr(back, name) == getattr(path, name)


def test_steps_that_are_left_out_move_the_start():
    path = trajectory(first=3)
    assert torch.equal(path.start, path.latents[1:2])
    assert torch.equal(trajectory(first=4).start, path.clean)


def test_without_noises_the_schedule_is_the_models_own():
    base, zs = DDIM(steps=4), randn(4, 4, 2, 3, dtype=torch.float32)
    assert trajectory().schedule(base) is base
    noisy = trajectory(noises=zs, eta=0.5).schedule(base)
    assert (noisy.base, noisy.eta) == (base, 0.5) and torch.equal(noisy.noises, zs)


def test_null_embeddings_take_the_place_of_the_plain_one():
    plain = Text(randn(1, 7, 6, dtype=torch.float32), {"pooled": randn(1, 3)})
    found = randn(4, 7, 6, dtype=torch.float32)
    assert trajectory().nulls(plain) is plain
    several = trajectory(null=found).nulls(plain)
    assert torch.equal(torch.cat([text.states for text in several]), found)
    one = trajectory(null=found[:1]).nulls(plain)
    assert torch.equal(one.states, found[:1]) and one.extras is plain.extras


def test_latents_that_are_not_contiguous_can_be_saved(tmp_path):
    path = Trajectory(latents=randn(3, 2, 4, 5).transpose(2, 3))
    path.save(tmp_path / "t.safetensors")
    assert torch.equal(Trajectory.load(tmp_path / "t.safetensors").latents, path.latents)


def not_one(folder, kind):
    path = folder / f"{kind}.safetensors"
    if kind == "text":
        path.write_text("not safetensors")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut":
        trajectory().save(path)
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "foreign":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(1)}, path)
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder", "cut", "foreign"])
def test_what_is_no_trajectory_is_said_to_be_none(kind, tmp_path):
    path = not_one(tmp_path, kind)
    with pytest.raises(ConfigError) as error:
        Trajectory.load(path)
    assert f"{str(path)!r} is not a saved trajectory" in str(error.value)
