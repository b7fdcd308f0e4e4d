"""A mask that the user gives, from picture to latent grid and into the provenance."""

import numpy as np
import pytest
import torch
from PIL import Image

from freeprompt.api import Editor
from freeprompt.api.mask import latent_mask
from freeprompt.errors import ConfigError
from freeprompt.images import save_png
from freeprompt.models.tiny import tiny_sd
from freeprompt.picture import open_image


def painted(size, box=None):
    mask = Image.new("L", size, 0)
    if box:
        mask.paste(255, box)
    return mask


@pytest.fixture(scope="module")
def editor():
    return Editor(tiny_sd(sample_size=8), name="tiny")


@pytest.fixture
def photo():
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))


def test_a_cell_may_change_if_any_of_its_pixels_may():
    found = latent_mask(open_image(painted((64, 32), (7, 0, 9, 8))), (64, 32), (4, 8))
    expected = torch.zeros(1, 1, 4, 8)
    expected[0, 0, 0, :2] = 1
    assert torch.equal(found, expected)


def test_a_mask_smaller_than_the_grid():
    found = latent_mask(open_image(painted((4, 2), (0, 0, 1, 1))), (64, 32), (4, 8))
    assert found.sum() == 4
    assert found[0, 0, :2, :2].sum() == 4


@pytest.mark.parametrize("method", ["fpe-protect", "diffedit"])
def test_only_what_is_white_changes(editor, photo, method):
    mask = painted((64, 64), (0, 0, 32, 64))
    plan = {"image": photo, "method": method, "steps": 4}
    result = editor.edit("a cat", mask=mask, **plan)
    kept = editor.edit("a cat", mask=painted((64, 64), (0, 0, 8, 8)), **plan)
    assert result.images[0].tobytes() != kept.images[0].tobytes()
    assert result.provenance.mask is None
    assert result.provenance.mask_sha256 == open_image(mask).sha256


def test_a_mask_on_a_generated_image(editor):
    mask = painted((64, 64), (0, 0, 16, 16))
    result = editor.edit("a cat", source="a dog", mask=mask, method="fpe-protect", steps=4)
    free = editor.edit("a cat", source="a dog", steps=4)
    assert result.images[0].tobytes() != free.images[0].tobytes()


@pytest.mark.parametrize(
    ("mask", "method", "message"),
    [
        (painted((64, 64), (0, 0, 9, 9)), "fpe", "fpe does not use a mask.*fpe-protect"),
        (painted((64, 64)), "fpe-protect", "black everywhere"),
        (painted((64, 32), (0, 0, 9, 9)), "fpe-protect", "64 x 32.*another shape"),
    ],
)
def test_refusals(editor, photo, mask, method, message):
    with pytest.raises(ConfigError, match=message):
        editor.edit("a cat", image=photo, mask=mask, method=method, steps=4)


def test_made_again_from_the_command_line(tmp_path, photo, monkeypatch):
    from typer.testing import CliRunner

    from freeprompt.cli.app import app

    monkeypatch.chdir(tmp_path)
    save_png(photo, "photo.png", {})
    save_png(painted((64, 64), (0, 0, 32, 64)), "mask.png", {})
    first = ["edit", "a cat", "--image", "photo.png", "--mask", "mask.png", "--model", "tiny-sd"]
    first += ["--method", "fpe-protect", "--steps", "3", "-o", "a.png", "--no-reconstruct"]
    assert CliRunner().invoke(app, first, catch_exceptions=False).exit_code == 0
    again = ["edit", "--from", "a.png", "-o", "b.png", "--no-reconstruct"]
    assert CliRunner().invoke(app, again, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save_png(painted((64, 64), (0, 0, 40, 64)), "mask.png", {})
    with pytest.raises(ConfigError, match="not the mask"):
        CliRunner().invoke(app, again, catch_exceptions=False)
