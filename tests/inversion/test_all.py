"""What every registered inversion promises."""

import inspect
from pathlib import Path

import pytest
import torch

from freeprompt.core import Trajectory
from freeprompt.inversion import INVERSIONS, reconstruct, reconstruction_cost
from freeprompt.models import adapt, restored
from freeprompt.models.tiny import tiny_sd

STEPS, PROMPT = 3, "a red dog"
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
DOCS = Path(__file__).parents[2] / "docs" / "inversions"
FEW = {"null-text": {"inner_steps": 2}, "regularised": {"rounds": 1}}
pytestmark = pytest.mark.parametrize("name", list(INVERSIONS))


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(), "tiny")


def invert(model, name, **more):
    inversion = INVERSIONS[name](**FEW.get(name, {}))
    return inversion(model, CLEAN, steps=STEPS, prompt=PROMPT, guidance=3.0, seed=1, **more)


def test_it_begins_at_the_image_and_repeats(model, name):
    first, second = invert(model, name), invert(model, name)
    assert torch.equal(first.clean, CLEAN) and first.steps == STEPS
    for field in ("latents", "null", "noises"):
        a, b = getattr(first, field), getattr(second, field)
        assert a is b is None or torch.equal(a, b)
    assert first.prompt == PROMPT and first.provenance["steps"] == STEPS
    assert restored(model.pipe.unet)


def test_it_gives_what_it_says(model, name):
    path = invert(model, name)
    gives = {thing for thing in ("null", "noises") if getattr(path, thing) is not None}
    assert gives == set(INVERSIONS[name].gives)


def test_saved_and_read_it_reconstructs_the_same(model, name, tmp_path):
    path = invert(model, name)
    path.save(tmp_path / "path.safetensors")
    back = Trajectory.load(tmp_path / "path.safetensors")
    before = model.sample_forwards
    assert torch.equal(reconstruct(model, back), reconstruct(model, path))
    assert model.sample_forwards - before == 2 * reconstruction_cost(path)


def test_it_can_be_interrupted(model, name):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert(model, name, callback=stop)
    assert restored(model.pipe.unet) and torch.is_grad_enabled()


def test_documented(name):
    cls = INVERSIONS[name]
    assert "arXiv:" in inspect.getdoc(cls) and "Source:" in inspect.getdoc(cls)
    assert "arXiv:" in (DOCS / f"{name}.md").read_text()
    assert f"({name}.md)" in (DOCS / "README.md").read_text()
    assert all(spec.help and spec.source for spec in cls.specs().values())
    assert cls.build({key: str(value) for key, value in cls().to_dict().items()}) == cls()
