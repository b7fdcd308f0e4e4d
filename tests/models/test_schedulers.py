"""Schedulers of every kind that a checkpoint may bring: converted safely, or refused by name."""

import diffusers
import pytest
import torch

from freeprompt.core import DDIM
from freeprompt.errors import ConfigError, UnsupportedModel
from freeprompt.models import adapt
from freeprompt.models.tiny import sd_scheduler, tiny_sd
from freeprompt.models.unet import guidance_embedding

OF_SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DIFFUSION = [
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("UniPCMultistepScheduler", "DEISMultistepScheduler", "LCMScheduler", "TCDScheduler"),
]
OTHERS = {
    "FlowMatchEulerDiscreteScheduler": "flow matching",
    "FlowMatchHeunDiscreteScheduler": "flow matching",
    "EDMEulerScheduler": "EDM",
    "EDMDPMSolverMultistepScheduler": "EDM",
    "CMStochasticIterativeScheduler": "EDM",
}


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd(sample_size=8)


@pytest.mark.parametrize("name", DIFFUSION)
def test_schedulers_of_diffusion_keep_the_noise_levels(name):
    """Whatever sampler the checkpoint prefers, its levels are those it was trained at."""
    theirs = getattr(diffusers, name)(**OF_SD)
    ours = DDIM.from_config(theirs.config, 10)
    trained = sd_scheduler().alphas_cumprod
    assert torch.equal(torch.tensor(ours.alphas_cumprod, dtype=torch.float32), trained)
    assert not ours.set_alpha_to_one or name in ("DDIMScheduler", "LCMScheduler", "TCDScheduler")


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_kinds_of_noise_are_refused_by_name(pipe, name):
    theirs = getattr(diffusers, name)()
    with pytest.raises(UnsupportedModel, match=OTHERS[name]):
        DDIM.from_config(theirs.config, 10)
    parts = {**pipe.components, "scheduler": theirs}
    with pytest.raises(UnsupportedModel, match=OTHERS[name]):
        adapt(diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False), "x")


def test_flow_matching_inside_a_solver_is_seen():
    theirs = diffusers.UniPCMultistepScheduler(**OF_SD, use_flow_sigmas=True)
    with pytest.raises(UnsupportedModel, match="flow matching"):
        DDIM.from_config(theirs.config, 10)


def test_unknown_betas_are_refused_when_a_pipeline_is_adapted(pipe):
    theirs = diffusers.DDPMScheduler(beta_schedule="sigmoid", steps_offset=1, clip_sample=False)
    parts = {**pipe.components, "scheduler": theirs}
    with pytest.raises(ConfigError, match="'sigmoid'"):
        adapt(diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False), "x")


def test_a_consistency_model_starts_at_pure_noise():
    """Leading steps would start four of them at timestep 751, where no such model was trained."""
    theirs = diffusers.LCMScheduler(**OF_SD)
    ours = DDIM.from_config(theirs.config, 4)
    theirs.set_timesteps(4)
    assert ours.timesteps[0] == int(theirs.timesteps[0]) == 999
    apart = [abs(a - int(b)) for a, b in zip(ours.timesteps, theirs.timesteps, strict=True)]
    assert max(apart) <= 20


@pytest.mark.parametrize("width", [32, 33, 256])
def test_a_distilled_model_is_told_its_guidance_as_diffusers_does(pipe, width):
    embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    theirs = embed(None, torch.tensor([7.5]), embedding_dim=width)
    assert torch.allclose(guidance_embedding(7.5, width), theirs, atol=1e-4)


def test_what_a_distilled_model_is_told_matters():
    plain = tiny_sd(sample_size=8)
    told = diffusers.UNet2DConditionModel.from_config(plain.unet.config, time_cond_proj_dim=16)
    told.load_state_dict(plain.unet.state_dict(), strict=False)
    plain.unet = told.eval()
    model = adapt(plain, "lcm")
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        text = model.encode_text(["a dog", "a cat"])
        answer = model.predict(x, 999, text)
        untold = told(x, 999, encoder_hidden_states=text.states).sample
    assert not torch.allclose(answer, untold)
