"""FPE inside a mask: what lies outside is the source to the bit, what lies inside is FPE's work."""

import pytest
import torch
from tests.methods.test_rivals import SOURCE, STEPS, TARGET, gap, noise, task

from freeprompt.errors import ConfigError
from freeprompt.inversion import DDIMInversion, reconstruct
from freeprompt.methods import FPE, ProtectedFPE


@pytest.fixture(scope="module")
def real(model):
    with torch.no_grad():
        trajectory = DDIMInversion()(model, noise(seed=3), steps=STEPS)
    return {"source": "", "start": trajectory.start, "trajectory": trajectory}


def box():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 2:7] = 1
    return mask


def changed(outcome, clean):
    return (outcome.targets != clean).any(1, keepdim=True).float()


def test_a_given_mask_on_a_real_image(model, real):
    clean = real["trajectory"].clean
    outcome = ProtectedFPE(grow=0)(model, task(**real, mask=box()))
    assert torch.equal(changed(outcome, clean), box())
    wider = ProtectedFPE(grow=2)(model, task(**real, mask=box()))
    assert torch.equal(
        changed(wider, clean), torch.nn.functional.max_pool2d(box(), 5, stride=1, padding=2)
    )


def test_a_given_mask_on_a_generated_image(model):
    outcome = ProtectedFPE(grow=0)(model, task(mask=box()))
    assert torch.equal(changed(outcome, outcome.source), box())
    assert torch.equal(outcome.source, FPE()(model, task()).source)


def test_a_mask_of_everything_is_fpe(model, real):
    everything = torch.ones(1, 1, 16, 16)
    for kind in ({}, real):
        protected = ProtectedFPE()(model, task(**kind, mask=everything))
        assert torch.equal(protected.targets, FPE()(model, task(**kind)).targets)


def test_the_noise_mask(model, real):
    """Each target has a mask of its own, and a generated source is finished before it is found."""
    for kind in ({}, real):
        outcome = ProtectedFPE(grow=0)(model, task(TARGET, "a green house", **kind))
        clean = real["trajectory"].clean if kind else outcome.source
        found = changed(outcome, clean)
        assert 0 < found[0].mean() < 1
        assert not torch.equal(found[0], found[1])
    assert gap(ProtectedFPE()(model, task()).source, FPE()(model, task()).source) < 1e-5


def test_an_unpinned_source_is_kept_to_its_own_end(model, real):
    """Latents are blended behind the steps that share maps, too: the source must be there yet."""
    method = ProtectedFPE(replay=False, share=0.4, grow=0)
    kept = box() == 0
    walked = reconstruct(model, real["trajectory"])
    outcome = method(model, task(**real, mask=box()))
    assert gap(outcome.targets[kept.expand(1, 4, -1, -1)], walked[kept.expand(1, 4, -1, -1)]) < 1e-4
    # a generated source goes its way again, guided as it was
    outcome = method(model, task())
    assert changed(outcome, outcome.source).any()
    near = (outcome.targets - outcome.source).abs().amax(1, keepdim=True) < 1e-4
    assert near.float().mean() > 0.3


def test_the_words_mask_needs_no_source_prompt(model, real):
    """Without one, only the target's word says where to change."""
    method = ProtectedFPE(words="dog,cat", word_threshold=0.99, grow=0)
    for kind in ({"source": SOURCE}, real):
        outcome = method(model, task(**kind))
        clean = outcome.source if outcome.source is not None else real["trajectory"].clean
        assert 0 < changed(outcome, clean).mean() < 1


def test_words_that_are_not_there(model):
    with pytest.raises(ConfigError, match="horse"):
        ProtectedFPE(words="dog,horse")(model, task())


def test_the_noise_mask_has_no_place_in_a_stock_call(model):
    with pytest.raises(ConfigError, match="finished source"):
        ProtectedFPE().controls(model, task())
