"""Negative-prompt inversion: what it finds, and what guidance then does."""

import pytest
import torch

from freeprompt.core import PAIR, denoise
from freeprompt.inversion import DDIMInversion, NegativePromptInversion, reconstruct
from freeprompt.methods import Task
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

STEPS, PROMPT = 3, "a red dog"
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(), "tiny")


def test_it_is_ddim_with_the_prompt_in_the_place_of_nothing(model):
    plain = DDIMInversion(iterations=1)(model, CLEAN, steps=STEPS, prompt=PROMPT)
    path = NegativePromptInversion(iterations=1)(model, CLEAN, steps=STEPS, prompt=PROMPT)
    assert torch.equal(path.latents, plain.latents)
    assert torch.equal(path.null, model.encode_text([PROMPT]).states)
    assert (path.guidance, path.proximal, path.noises) == (1.0, None, None)


@torch.no_grad()
def test_no_guidance_scale_moves_the_source(model):
    """The point of it: what the source is denoised to is what guidance 1 gives."""
    path = NegativePromptInversion()(model, CLEAN, steps=STEPS, prompt=PROMPT)
    text = model.encode_text([PROMPT])
    for guidance in (2.0, 7.5):
        done = denoise(
            model,
            model.schedule(STEPS),
            {"source": path.start},
            text={"source": text},
            null=path.nulls(model.encode_text([""])),
            rows=PAIR.without(branch="target"),
            guidance=guidance,
        )
        assert torch.allclose(done.state["source"], reconstruct(model, path), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("proximal", "carried"), [(0.7, 0.7), (0.0, None), (1, 1.0)])
def test_the_proximal_quantile_is_carried(model, proximal, carried):
    method = NegativePromptInversion(proximal=proximal)
    path = method(model, CLEAN, steps=1, prompt=PROMPT)
    assert path.proximal == carried and path.provenance["proximal"] == proximal


@torch.no_grad()
def test_all_that_belongs_to_the_prompt_takes_its_place():
    """SDXL's unconditional rows read a pooled embedding, too: nothing of the empty prompt stays."""
    model = adapt(tiny_sdxl(), "tiny-xl")
    path = NegativePromptInversion()(model, CLEAN, steps=1, prompt=PROMPT)
    task = Task(
        targets=("a cat",), source=PROMPT, start=path.start, steps=1, guidance=5, trajectory=path
    )
    null, prompt = task.null(model), model.encode_text([PROMPT])
    assert torch.equal(null.states, prompt.states)
    assert torch.equal(null.extras["pooled"], prompt.extras["pooled"])
    assert not torch.equal(null.extras["pooled"], model.encode_text([""]).extras["pooled"])
