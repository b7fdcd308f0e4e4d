"""Edit-friendly DDPM inversion against the paper's algorithm, and its exactness."""

import math

import pytest
import torch
from tests.reference import Reference

from freeprompt.core import Record, Sites, Tape, Window
from freeprompt.inversion import EditFriendlyInversion, reconstruct, reconstruction_cost
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd

STEPS, PROMPT = 5, "a red dog"
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(), "tiny")


def invert(model, steps=STEPS, prompt=PROMPT, seed=0, controls=(), callback=None, **more):
    settings = {"skip": 0.0, **more}
    return EditFriendlyInversion(**settings)(
        model,
        CLEAN,
        steps=steps,
        prompt=prompt,
        seed=seed,
        controls=controls,
        callback=callback,
    )


class Paper(Reference):
    """Algorithm 1 in DDPM's own symbols, from given independent noises."""

    @torch.no_grad()
    def invert(self, clean, noises, eta, prompt):
        labels = self.labels[::-1]
        xs = [
            self.alphas[t].sqrt() * clean.double() + (1 - self.alphas[t]).sqrt() * n.double()
            for t, n in zip(labels, noises, strict=True)
        ]
        xs.append(clean.double())
        zs = []
        for i, t in enumerate(labels):
            mean, sigma = self.posterior(xs[i], t, eta, prompt)
            zs.append((xs[i + 1] - mean) / sigma)
            xs[i + 1] = mean + sigma * zs[-1]
        return torch.cat(xs), torch.cat(zs)

    def posterior(self, x, t, eta, prompt):
        answer = self._network(x.float(), t, [("", 0)])
        if prompt:
            answer = answer + self.guidance * (self._network(x.float(), t, [(prompt, 0)]) - answer)
        x0, noise = self._split(x, t, answer)
        a, b = float(self.alphas[t]), float(self._level(t - self.stride))
        sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        return math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * noise, sigma


def drawn(seed=0):
    """The noises that the inversion draws, the first (a generated picture's start) left out."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(CLEAN.shape, generator=generator) for _ in range(STEPS + 1)][1:]


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_against_the_papers_algorithm(both, prompt, eta):
    xs, zs = Paper(both.pipe, STEPS, guidance=3.5).invert(CLEAN, drawn(), eta, prompt)
    path = invert(both, prompt=prompt, eta=eta, last_noise=True)
    assert torch.allclose(path.latents.flip(0).double(), xs, rtol=0, atol=1e-4)
    assert torch.allclose(path.noises.double(), zs, rtol=0, atol=1e-2)
    assert (path.eta, path.prompt, path.first) == (eta, prompt, 0)
    assert path.guidance == (3.5 if prompt else 1.0)


@pytest.mark.parametrize("skip", [0.0, 0.4])
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_with_all_noises_reconstruction_is_exact_to_float_precision(both, prompt, skip):
    path = invert(both, prompt=prompt, skip=skip, last_noise=True)
    assert torch.allclose(reconstruct(both, path), CLEAN, rtol=0, atol=2e-6)
    assert torch.equal(path.clean, CLEAN)


def test_without_the_last_noise_the_last_step_alone_is_off(model):
    """z_1 := 0 as in the paper: the picture is the last step's prediction."""
    exact, path = invert(model, last_noise=True), invert(model)
    assert torch.equal(path.latents, exact.latents)
    assert torch.equal(path.noises[:-1], exact.noises[:-1]) and not path.noises[-1].any()
    schedule = exact.schedule(model.schedule(STEPS))
    off = CLEAN - schedule.sigma(STEPS - 1) * exact.noises[-1:]
    assert torch.allclose(reconstruct(model, path), off, rtol=0, atol=2e-6)


def test_every_step_ends_exactly_at_the_next_latent(model):
    """Rounding of z is put back into the latents, so that nothing drifts: bit for bit."""
    path, ends = invert(model, last_noise=True), []
    reconstruct(model, path, callback=lambda p: ends.append(p.state["source"]))
    for step, end in enumerate(ends[:-1]):
        assert torch.equal(end, path.after(step))


def test_the_noises_are_larger_than_a_samplers_and_the_latents_independent(model):
    """The paper's point: at a level the latent is the image with noise of its own."""
    path = invert(model)
    schedule = model.schedule(STEPS)
    for i, z in enumerate(drawn()):
        wanted = schedule.noised(CLEAN, z, i)
        assert torch.allclose(path.latents[STEPS - i][None], wanted, rtol=0, atol=1e-5)
    assert float(path.noises[:-1].std()) > 1.1


def test_skipped_steps_cost_nothing_and_move_the_start(model):
    before = model.sample_forwards
    path = invert(model, skip=0.4)
    assert model.sample_forwards - before == 2 * 3
    assert path.first == 2 and not path.noises[:2].any() and path.noises[2].any()
    assert torch.equal(path.start, path.latents[3:4])
    assert reconstruction_cost(path) == 2 * 3
    before = model.sample_forwards
    reconstruct(model, path)
    assert model.sample_forwards - before == 2 * 3
    alone = invert(model, skip=0.4, prompt="")
    assert reconstruction_cost(alone) == 3


def test_at_source_guidance_0_the_prompt_is_noted_and_plays_no_part(model):
    path, blind = invert(model, source_guidance=0), invert(model, prompt="")
    assert torch.equal(path.noises, blind.noises) and path.prompt == PROMPT
    assert torch.equal(reconstruct(model, path), reconstruct(model, blind))


def test_skipping_everything_asks_the_network_nothing(model):
    before = model.sample_forwards
    path = invert(model, skip=1.0)
    assert torch.equal(path.start, CLEAN) and torch.equal(reconstruct(model, path), CLEAN)
    assert model.sample_forwards == before


def test_a_seed_is_a_set_of_noises(model):
    one, same, other = (invert(model, seed=seed, steps=2) for seed in (1, 1, 2))
    assert torch.equal(one.noises, same.noises) and one.provenance["seed"] == 1
    assert not torch.equal(one.latents[1], other.latents[1])
    start = torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(1))
    schedule = model.schedule(2)
    assert not torch.equal(one.start, schedule.noised(CLEAN, start, 0))


def test_a_checkpoint_whose_last_step_adds_no_noise():
    """Where the last level is noise-free, sigma is 0 there, and z must not be 0/0."""
    pipe = tiny_sd()
    pipe.scheduler = pipe.scheduler.from_config({**pipe.scheduler.config, "set_alpha_to_one": True})
    model = adapt(pipe, "clean")
    path = invert(model, last_noise=True, steps=3)
    assert bool(path.noises.isfinite().all()) and not path.noises[-1].any()
    assert bool(reconstruct(model, path).isfinite().all())


def test_recording_and_progress(model):
    """It evaluates at the very latents of the source pass, so a recording is exact."""
    tape, told = Tape(), []
    record = Record(sites=Sites("self:7"), window=Window(0, STEPS), tape=tape)
    path = invert(model, controls=[record], skip=0.4, callback=told.append)
    assert {(key.step, key.conditional) for key in tape.tensors} == {
        (step, half) for step in (2, 3, 4) for half in (False, True)
    }
    assert torch.equal(path.noises, invert(model, skip=0.4).noises)
    assert [(p.phase, p.step, p.steps) for p in told] == [("invert", i, 3) for i in range(3)]
    assert torch.equal(told[0].state["source"], path.after(2))
