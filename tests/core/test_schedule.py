"""DDIM: exact inverses, agreement with diffusers, and configs of other samplers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from tests.core.handmade import randn

from freeprompt.core import DDIM
from freeprompt.core.schedule import alphas_from_betas, betas_from_config, sd_betas
from freeprompt.errors import ConfigError

SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
STEPS = [1, 2, 7, 30, 50, 999]
SHAPE = (1, 4, 3, 5)


@pytest.fixture(params=["epsilon", "v_prediction"])
def prediction(request):
    return request.param


@pytest.fixture(params=["leading", "trailing"])
def spacing(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["ends-at-t0", "ends-at-one"])
def to_one(request):
    return request.param


def some(steps):
    """First, second, middle and last step."""
    return sorted({0, min(1, steps - 1), steps // 2, steps - 1})


def gap(a, b):
    """Largest difference, relative to the size of the latents."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_step_and_unstep_are_exact_inverses(steps, dtype, limit, prediction, spacing, to_one):
    ddim = DDIM(steps=steps, prediction=prediction, spacing=spacing, set_alpha_to_one=to_one)
    x, answer = randn(*SHAPE, dtype=dtype), randn(*SHAPE, seed=1, dtype=dtype)
    for i in some(steps):
        noise = ddim.noise(x, answer, i)
        assert gap(ddim.unstep(ddim.step(x, noise, i), noise, i), x) < limit
        assert gap(ddim.step(ddim.unstep(x, noise, i), noise, i), x) < limit
        assert ddim.step(x, noise, i).dtype == ddim.unstep(x, noise, i).dtype == dtype


@pytest.mark.parametrize("steps", [1, 7, 30, 50])
def test_a_whole_run_is_undone_by_a_whole_inversion(steps, spacing):
    """Also where the steps do not divide the timesteps: 30 leave gaps between the levels."""
    ddim = DDIM(steps=steps, spacing=spacing)
    clean, noise = randn(*SHAPE), [randn(*SHAPE, seed=i + 1) for i in range(steps)]
    x = clean
    for i in reversed(range(steps)):
        x = ddim.unstep(x, noise[i], i)
    assert gap(x, clean) > 1e-3
    for i in range(steps):
        x = ddim.step(x, noise[i], i)
    assert gap(x, clean) < 1e-12


def test_a_step_moves_between_noise_levels():
    """For the true noise, a noised image lands exactly on the same image with less noise."""
    ddim, clean, noise = DDIM(steps=50), randn(*SHAPE), randn(*SHAPE, seed=1)
    bar = torch.tensor(ddim.alphas_cumprod, dtype=torch.float64)
    noised = [bar[t] ** 0.5 * clean + (1 - bar[t]) ** 0.5 * noise for t in ddim.timesteps]
    for i in range(49):
        assert gap(ddim.step(noised[i], noise, i), noised[i + 1]) < 1e-12
        assert gap(ddim.unstep(noised[i + 1], noise, i), noised[i]) < 1e-12
    end = bar[0] ** 0.5 * clean + (1 - bar[0]) ** 0.5 * noise
    assert gap(ddim.step(noised[49], noise, 49), end) < 1e-12
    exact = DDIM(steps=50, set_alpha_to_one=True)
    assert gap(exact.step(noised[49], noise, 49), clean) < 1e-12


def test_v_is_turned_into_noise_at_the_level_of_the_label():
    ddim, clean, noise = DDIM(steps=50, prediction="v_prediction"), randn(*SHAPE), randn(*SHAPE)
    noise = noise.roll(1)
    for i in (0, 25, 49):
        a = ddim.alphas_cumprod[ddim.timesteps[i]]
        x, v = a**0.5 * clean + (1 - a) ** 0.5 * noise, a**0.5 * noise - (1 - a) ** 0.5 * clean
        assert gap(ddim.noise(x, v, i), noise) < 1e-12
    assert ddim.noise(x.float(), v.float(), 0).dtype == torch.float64


def test_an_epsilon_prediction_is_the_noise():
    answer = randn(*SHAPE)
    assert DDIM(steps=5).noise(randn(*SHAPE), answer, 2) is answer


def diffusers_ddim(steps, **config):
    scheduler = DDIMScheduler(**{**SD, **config})
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", STEPS[:-1])
def test_agrees_with_diffusers_over_whole_runs(steps, prediction, spacing, to_one):
    """Each step to 1e-6 of the latent's size in float32, on the same model outputs."""
    agree(
        diffusers_ddim(
            steps, prediction_type=prediction, timestep_spacing=spacing, set_alpha_to_one=to_one
        )
    )


def test_agrees_with_diffusers_over_the_longest_run():
    agree(diffusers_ddim(STEPS[-1]))


def agree(theirs):
    steps = theirs.num_inference_steps
    ours = DDIM.from_config(theirs.config, steps)
    assert list(ours.timesteps) == theirs.timesteps.tolist()
    x = randn(*SHAPE, dtype=torch.float32)
    for i, t in enumerate(theirs.timesteps.tolist()):
        answer = randn(*SHAPE, seed=i + 1, dtype=torch.float32)
        wanted = theirs.step(answer, t, x).prev_sample
        x = ours.step(x, ours.noise(x, answer, i), i)
        assert gap(x, wanted) < 1e-6


def test_is_diffusers_algorithm_to_float64_precision(prediction, spacing, to_one):
    """With float64 coefficients on their side too, a run ends within rounding of ours."""
    theirs = diffusers_ddim(
        30, prediction_type=prediction, timestep_spacing=spacing, set_alpha_to_one=to_one
    )
    ours = DDIM.from_config(theirs.config, 30)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.final_alpha_cumprod.double()
    x = y = randn(*SHAPE)
    for i, t in enumerate(theirs.timesteps.tolist()):
        answer = randn(*SHAPE, seed=i + 1)
        x = theirs.step(answer, t, x).prev_sample
        y = ours.step(y, ours.noise(y, answer, i), i)
    assert gap(y, x) < 1e-12


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
        {"trained_betas": [0.01 * (i + 1) for i in range(60)], "num_train_timesteps": 60},
    ],
    ids=lambda config: "-".join(map(str, config.values()))[:30],
)
def test_noise_levels_agree_with_diffusers(config):
    theirs = diffusers_ddim(10, **config)
    ours = DDIM.from_config(theirs.config, 10)
    found = torch.tensor(ours.alphas_cumprod, dtype=torch.float64)
    assert torch.allclose(found, theirs.alphas_cumprod.double(), rtol=1e-6, atol=1e-9)


def test_the_default_is_stable_diffusion():
    assert DDIM(steps=50) == DDIM.from_config({}, 50) == DDIM.from_config(SD, 50)
    assert DDIM(steps=50).timesteps[:2] == (981, 961) and DDIM(steps=50).timesteps[-1] == 1
    assert torch.equal(sd_betas(), betas_from_config(SD)) and len(sd_betas()) == 1000


@pytest.mark.parametrize("kind", [PNDMScheduler, EulerDiscreteScheduler])
def test_a_config_that_says_nothing_of_clipping_never_clips(kind):
    """diffusers' own DDIM, made from the same config, cuts x_0 to [-1, 1]."""
    config = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").config
    assert "clip_sample" not in config
    theirs = DDIMScheduler.from_config(config)
    theirs.set_timesteps(10)
    assert theirs.config.clip_sample
    ours = DDIM.from_config(config, 10)
    large, noise = 50 * randn(*SHAPE), randn(*SHAPE, seed=1)
    t = int(theirs.timesteps[-1])
    assert float(theirs.step(noise, t, large).prev_sample.abs().max()) < 5
    honest = diffusers_ddim(10, steps_offset=ours.steps_offset)
    assert gap(ours.step(large, noise, 9), honest.step(noise, t, large).prev_sample) < 1e-6


@pytest.mark.parametrize("key", ["clip_sample", "thresholding"])
def test_clipping_that_is_asked_for_is_not_done_either(key):
    assert DDIM.from_config({**SD, key: True}, 10) == DDIM(steps=10)


def test_missing_keys_are_not_diffusers_defaults():
    """`DDIMScheduler.from_config` would end at a noise-free level and start without offset."""
    ours = DDIM.from_config(EulerDiscreteScheduler().config, 10)
    assert ours.spacing == "leading" and not ours.set_alpha_to_one
    assert DDIM.from_config({"steps_offset": 0}, 10).timesteps[-1] == 0
    assert DDIM.from_config({"set_alpha_to_one": True}, 10).set_alpha_to_one


def test_zero_terminal_snr_is_finite_and_close_to_diffusers():
    """SD 2.x fine-tunes that start from pure noise: v-prediction, trailing, last level zero."""
    theirs = diffusers_ddim(
        10,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    ours = DDIM.from_config(theirs.config, 10)
    assert ours.timesteps[0] == 999 and ours.alphas_cumprod[999] == 2**-24
    found = torch.tensor(ours.alphas_cumprod, dtype=torch.float64)
    assert torch.allclose(found, theirs.alphas_cumprod.double(), rtol=0, atol=1e-6)
    assert ours.alphas_cumprod[0] == pytest.approx(DDIM(steps=1).alphas_cumprod[0], rel=1e-6)
    x = y = randn(*SHAPE, dtype=torch.float32)
    for i, t in enumerate(theirs.timesteps.tolist()):
        answer = randn(*SHAPE, seed=i + 1, dtype=torch.float32)
        x = theirs.step(answer, t, x).prev_sample
        y = ours.step(y, ours.noise(y, answer, i), i)
        assert bool(y.isfinite().all())
    assert gap(y, x) < 1e-3


def test_zero_terminal_snr_is_undone_as_well():
    ddim = DDIM(
        steps=10,
        prediction="v_prediction",
        spacing="trailing",
        alphas_cumprod=alphas_from_betas(sd_betas(), zero_snr=True),
    )
    x, v = randn(*SHAPE, dtype=torch.float32), randn(*SHAPE, seed=1, dtype=torch.float32)
    noise = ddim.noise(x, v, 0)
    assert gap(ddim.unstep(ddim.step(x, noise, 0), noise, 0), x) < 1e-5


@pytest.mark.parametrize("steps", [0, -1, 2.5, 50.0, True, "50", None])
def test_the_number_of_steps_is_a_positive_whole_number(steps):
    with pytest.raises(ConfigError) as error:
        DDIM(steps=steps)
    assert f"must be a whole number >= 1, not {steps!r}." in str(error.value)


@pytest.mark.parametrize("steps", [1000, 1001, 10**6])
def test_more_steps_than_timesteps_are_refused(steps):
    with pytest.raises(ConfigError, match=f"^{steps} steps are too many.* 1000 .*at most 999 "):
        DDIM(steps=steps)


def test_the_most_steps_that_are_possible_are_possible():
    assert DDIM(steps=999).timesteps == tuple(range(999, 0, -1))
    assert DDIM(steps=1000, steps_offset=0).timesteps == tuple(range(999, -1, -1))
    assert DDIM(steps=1000, spacing="trailing").timesteps == tuple(range(999, -1, -1))
    with pytest.raises(ConfigError, match="1001 steps are too many"):
        DDIM(steps=1001, spacing="trailing")


@pytest.mark.parametrize("step", [-1, 10, 1000])
def test_a_step_that_does_not_exist_is_refused(step):
    ddim, x = DDIM(steps=10), randn(*SHAPE)
    for move in (ddim.step, ddim.unstep):
        with pytest.raises(ConfigError, match=f"Step {step} does not exist.*from 0 to 9"):
            move(x, x, step)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"prediction_type": "sample"},
            "prediction type is 'sample'.*'epsilon' and 'v_prediction'",
        ),
        ({"prediction_type": "flow_prediction"}, "'flow_prediction'"),
        ({"beta_schedule": "sigmoid"}, "beta schedule is 'sigmoid'; known are scaled_linear"),
    ],
)
def test_what_ddim_cannot_serve_is_named(config, named):
    with pytest.raises(ConfigError, match=named):
        DDIM.from_config({**SD, **config}, 10)


def test_a_flow_model_is_refused():
    """Its config has no betas and no prediction type; SD's must not be assumed for it."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler"):
        DDIM.from_config(FlowMatchEulerDiscreteScheduler().config, 10)


def test_another_number_of_steps_keeps_the_rest():
    ddim = DDIM(steps=10, prediction="v_prediction", spacing="trailing", set_alpha_to_one=True)
    more = ddim.with_steps(20)
    assert len(ddim.timesteps) == 10 and len(more.timesteps) == more.steps == 20
    assert more.with_steps(10) == ddim


def test_half_precision_latents_are_moved_in_float64():
    """Steps must not add the rounding of their own arithmetic to that of the latents."""
    ddim, x = DDIM(steps=50), randn(*SHAPE, dtype=torch.float16)
    noise = randn(*SHAPE, seed=1, dtype=torch.float16)
    exact = ddim.step(x.double(), noise.double(), 0)
    assert torch.equal(ddim.step(x, noise, 0), exact.half())


def test_levels_fall_to_the_clean_end():
    for spacing in ("leading", "trailing"):
        ddim = DDIM(steps=30, spacing=spacing)
        before, after = zip(*(ddim.levels(i) for i in range(30)), strict=True)
        assert all(b < a for b, a in zip(before, after, strict=True))
        assert list(before) == sorted(before) and math.isclose(after[-1], ddim.alphas_cumprod[0])
