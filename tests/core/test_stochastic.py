"""Stochastic steps against the formulas of the papers, written out."""

import math

import pytest
import torch
from tests.core.handmade import randn

from freeprompt.core import DDIM, Stochastic
from freeprompt.errors import ConfigError

STEPS = 5
X, E, Z = randn(1, 4, 3, 5, seed=1), randn(1, 4, 3, 5, seed=2), randn(STEPS, 4, 3, 5, seed=3)
DDIMS = [DDIM(steps=STEPS), DDIM(steps=STEPS, prediction="v_prediction", spacing="trailing")]


def levels(ddim, i):
    """Cumulative alphas before and after step `i`, looked up again."""
    before = ddim.timesteps[i]
    after = before - 1000 // STEPS
    return ddim.alphas_cumprod[before], ddim.alphas_cumprod[max(after, 0)]


def close(a, b):
    return torch.allclose(a.double(), b.double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("ddim", DDIMS)
@pytest.mark.parametrize("i", range(STEPS))
def test_eta_one_is_ddpm(ddim, i):
    """Ho et al., arXiv:2006.11239, eq. 7: the posterior's mean and deviation, in their symbols."""
    bar, bar_before = levels(ddim, i)
    alpha = bar / bar_before
    beta = 1 - alpha
    x0 = (X - math.sqrt(1 - bar) * E) / math.sqrt(bar)
    mean = (
        math.sqrt(bar_before) * beta / (1 - bar) * x0
        + math.sqrt(alpha) * (1 - bar_before) / (1 - bar) * X
    )
    wanted = mean + math.sqrt((1 - bar_before) / (1 - bar) * beta) * Z[i]
    assert close(Stochastic(base=ddim, noises=Z).step(X, E, i), wanted)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_full_renewal_in_its_own_words(eta):
    """Xu et al., arXiv:2312.04965: sigma^2 is eta^2 (1 - a')."""
    ddim, i = DDIMS[0], 2
    a, b = levels(ddim, i)
    sigma = eta * math.sqrt(1 - b)
    x0 = (X - math.sqrt(1 - a) * E) / math.sqrt(a)
    wanted = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * E + sigma * Z[i]
    made = Stochastic(base=ddim, noises=Z, eta=eta, renewal="full").step(X, E, i)
    assert close(made, wanted)


def test_full_renewal_at_eta_one_forgets_the_direction():
    """The end depends on the predicted clean latent alone."""
    ddim, i = DDIMS[0], 2
    a, b = levels(ddim, i)
    x0 = (X - math.sqrt(1 - a) * E) / math.sqrt(a)
    made = Stochastic(base=ddim, noises=Z, renewal="full").step(X, E, i)
    assert close(made, math.sqrt(b) * x0 + math.sqrt(1 - b) * Z[i])
    elsewhere = math.sqrt(a) * x0 + math.sqrt(1 - a) * Z[0]
    assert close(Stochastic(base=ddim, noises=Z, renewal="full").step(elsewhere, Z[:1], i), made)


@pytest.mark.parametrize("renewal", ["posterior", "full"])
def test_eta_zero_is_ddim_bit_for_bit(renewal):
    plain = Stochastic(base=DDIMS[0], noises=Z, eta=0.0, renewal=renewal)
    for i in range(STEPS):
        assert torch.equal(plain.step(X, E, i), DDIMS[0].step(X, E, i))


@pytest.mark.parametrize("renewal", ["posterior", "full"])
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_unstep_undoes_step(renewal, eta):
    schedule = Stochastic(base=DDIMS[1], noises=Z, eta=eta, renewal=renewal)
    for i in range(STEPS):
        assert close(schedule.unstep(schedule.step(X, E, i), E, i), X)


def test_the_noise_between_two_latents_leads_from_one_to_the_other():
    there = randn(1, 4, 3, 5, seed=4)
    for i in range(STEPS):
        z = Stochastic(base=DDIMS[0], noises=Z).noise_between(X, there, E, i)
        found = torch.stack([z[0] if j == i else Z[j] for j in range(STEPS)])
        assert close(Stochastic(base=DDIMS[0], noises=found).step(X, E, i), there)


def test_all_items_get_the_same_noise():
    schedule = Stochastic(base=DDIMS[0], noises=Z)
    both = schedule.step(torch.cat([X, 2 * X]), torch.cat([E, -E]), 1)
    assert close(both[1:], schedule.step(2 * X, -E, 1))


def test_labels_and_conversion_are_those_of_the_base():
    schedule = Stochastic(base=DDIMS[1], noises=Z)
    assert (schedule.steps, schedule.timesteps) == (STEPS, DDIMS[1].timesteps)
    assert torch.equal(schedule.noise(X, E, 1), DDIMS[1].noise(X, E, 1))


def test_dtype_is_kept():
    schedule = Stochastic(base=DDIMS[0], noises=Z.float())
    for dtype in (torch.float16, torch.float32):
        assert schedule.step(X.to(dtype), E.to(dtype), 0).dtype == dtype
        assert schedule.unstep(X.to(dtype), E.to(dtype), 0).dtype == dtype
        assert schedule.noise_between(X.to(dtype), X.to(dtype), E.to(dtype), 0).dtype == dtype


@pytest.mark.parametrize(
    ("more", "message"),
    [({"noises": Z[:3]}, "3 noises for 5 steps"), ({"eta": 1.5}, "eta"), ({"eta": -1.0}, "eta")],
)
def test_what_cannot_be(more, message):
    with pytest.raises(ConfigError, match=message):
        Stochastic(**{"base": DDIMS[0], "noises": Z, **more})
