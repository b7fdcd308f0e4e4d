"""An inverted image as a file: edited from it as if it had just been inverted."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from freeprompt.api import Editor, Provenance
from freeprompt.api.saved import about_saved
from freeprompt.cli.app import app
from freeprompt.core import Trajectory
from freeprompt.errors import ConfigError, SaveError
from freeprompt.images import save_png
from freeprompt.models.tiny import tiny_sd


@pytest.fixture(scope="module")
def editor():
    return Editor(tiny_sd(sample_size=8), name="tiny")


@pytest.fixture
def photo():
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("plan", "settings"),
    [
        ({}, {"iterations": 1}),
        ({"method": "edit-friendly", "source": "a dog", "seed": 3}, {"skip": 0.25}),
        ({"method": "p2p", "inversion": "negative-prompt", "source": "a dog"}, {}),
        ({"method": "fpe"}, {"record": "inversion"}),
    ],
)
def test_the_file_is_as_good_as_the_inversion(editor, photo, tmp_path, plan, settings):
    path = tmp_path / "photo.safetensors"
    editor.invert(photo, steps=4, **plan, **settings).save(path)
    recorded = {k: v for k, v in settings.items() if k == "record"}
    fresh = editor.edit("a cat", image=photo, steps=4, **plan, **settings)
    before = editor.model.sample_forwards
    plan = {k: v for k, v in plan.items() if k != "inversion"}
    saved = editor.edit("a cat", image=path, steps=4, **plan, **recorded)
    assert saved.images[0].tobytes() == fresh.images[0].tobytes()
    assert editor.model.sample_forwards - before < fresh.provenance.sample_forwards
    one, two = saved.provenance.recipe(), fresh.provenance.recipe()
    one.pop("sample_forwards"), two.pop("sample_forwards")
    assert one == two
    assert saved.inverted.psnr == fresh.inverted.psnr


def test_it_is_a_saved_trajectory_too(editor, photo, tmp_path):
    inverted = editor.invert(photo, steps=3)
    inverted.save(tmp_path / "a.safetensors")
    loaded = Trajectory.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded.latents, inverted.trajectory.latents)
    assert about_saved(tmp_path / "a.safetensors")["steps"] == 3


def test_another_model_is_refused(editor, photo, tmp_path):
    path = tmp_path / "a.safetensors"
    editor.invert(photo, steps=2).save(path)
    other = Editor(tiny_sd(sample_size=8, seed=5), name="other")
    with pytest.raises(ConfigError, match=r"with 'tiny'.*'other'.*Invert the image again"):
        other.edit("a cat", image=path, steps=2)


def test_files_that_are_none(editor, photo, tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"no")
    editor.invert(photo, steps=2).trajectory.save(tmp_path / "path.safetensors")
    for name in ("junk", "missing", "path"):
        with pytest.raises(ConfigError, match=rf"{name}\.safetensors' is not a saved inversion"):
            editor.edit("a cat", image=tmp_path / f"{name}.safetensors", steps=2)


def test_names_and_places(editor, photo, tmp_path):
    inverted = editor.invert(photo, steps=2)
    with pytest.raises(ConfigError, match=r"\.safetensors file; got"):
        inverted.save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError):
        inverted.save(tmp_path / "file" / "a.safetensors")
    plain = editor.edit("a cat", image=photo, method="sdedit", steps=2).inverted
    with pytest.raises(ConfigError, match="without an inversion"):
        plain.save(tmp_path / "a.safetensors")


class TestCommand:
    def run(self, *args):
        return CliRunner().invoke(app, list(args), catch_exceptions=False)

    def test_invert_then_edit(self, tmp_path, photo, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_png(photo, "photo.png", {})
        done = self.run(
            "invert", "photo.png", "--model", "tiny-sd", "--steps", "3", "-o", "a.safetensors"
        )
        assert done.exit_code == 0
        assert "reconstruction" in done.stdout
        plan = ["--model", "tiny-sd", "--no-reconstruct"]
        assert (
            self.run("edit", "a cat", "--image", "a.safetensors", *plan, "-o", "a.png").exit_code
            == 0
        )
        assert Provenance.from_png("a.png").steps == 3
        again = self.run("edit", "--from", "a.png", "-o", "b.png", "--no-reconstruct")
        assert again.exit_code == 0
        assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()

    def test_refused_before_a_model_is_loaded(self, tmp_path, photo, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_png(photo, "photo.png", {})
        with pytest.raises(ConfigError, match=r"\.safetensors"):
            self.run("invert", "photo.png", "--model", "none-such", "-o", "a.png")
        with pytest.raises(ConfigError, match="not a saved inversion"):
            self.run("edit", "a cat", "--model", "none-such", "--image", "b.safetensors")
