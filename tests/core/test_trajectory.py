"""Latents from clean to noise: order, files, and what is no such file."""

import pytest
import torch
from tests.core.handmade import randn

from freeprompt.core import Trajectory
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
