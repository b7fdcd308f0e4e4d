"""`denoise` on a tiny model of the real classes."""

from itertools import pairwise

import pytest
import torch
from tests.core.handmade import randn

from freeprompt.core import (
    PAIR,
    SOURCE,
    TARGET,
    TRIPLE,
    Control,
    Share,
    Sites,
    Trajectory,
    Window,
    denoise,
)
from freeprompt.errors import ConfigError
from freeprompt.models import adapt, restored
from freeprompt.models.tiny import tiny_sd

STEPS = 4


def noise(seed=0, size=(8, 8)):
    return randn(1, 4, *size, seed=seed, dtype=torch.float32)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(), "tiny")


def run(model, *, rows=PAIR, state=None, steps=STEPS, null="", **more):
    """Denoise both branches, or those given, from the same noise."""
    state = state or {"source": noise(), "target": noise()}
    text = {
        "source": model.encode_text(["a red dog"]),
        "target": model.encode_text(["a blue cat"] * len(state.get("target", [0]))),
    }
    null = model.encode_text([null]) if isinstance(null, str) else null
    return denoise(model, model.schedule(steps), state, text=text, null=null, rows=rows, **more)


@pytest.fixture(scope="module")
def plain(model):
    """The end of a run without controls."""
    with torch.no_grad():
        return run(model).state


def share(stop=2):
    return Share(sites=Sites("self:below-top"), window=Window(0, stop))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_loop_without_controls_is_the_stock_pipeline(prediction):
    """On a picture that is not square, with a negative prompt."""
    model, start = adapt(tiny_sd(prediction=prediction), "tiny"), noise(size=(6, 11))
    ours = run(model, rows=TARGET, state={"target": start}, null="a car")
    theirs = model.pipe(
        "a blue cat",
        negative_prompt="a car",
        latents=start,
        height=6 * 8,
        width=11 * 8,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        output_type="latent",
    ).images
    scale = float(theirs.abs().max())
    assert torch.allclose(ours.state["target"], theirs, rtol=0, atol=1e-5 * scale)


def test_the_callback_is_told_every_step(model):
    told = []
    done = run(model, rows=TARGET, state={"target": noise()}, phase="invert", callback=told.append)
    assert [(p.phase, p.step, p.steps) for p in told] == [
        ("invert", i, STEPS) for i in range(STEPS)
    ]
    assert torch.equal(told[-1].state["target"], done.state["target"])
    latents = [p.state["target"] for p in told]
    assert not any(torch.equal(a, b) for a, b in pairwise(latents))


def test_what_a_callback_does_to_its_state_stays_there(model, plain):
    assert same(run(model, callback=lambda progress: progress.state.clear()).state, plain)


def test_the_given_state_is_left_alone(model):
    state = {"source": noise(), "target": noise()}
    copies = {name: x.clone() for name, x in state.items()}
    run(model, state=state, controls=[share()], stop=1)
    assert same(state, copies)


def test_a_step_costs_one_sample_a_row(model):
    for rows in (PAIR, TRIPLE, TARGET, SOURCE):
        before = model.sample_forwards
        run(model, rows=rows, start=1, stop=2)
        assert model.sample_forwards - before == len(rows)


def test_two_segments_equal_one_run_bit_for_bit(model):
    """Segments are how the source enters and leaves the batch; nothing else may change."""
    whole = run(model, controls=[share()])
    told = []
    first = run(model, controls=[share()], stop=1, callback=told.append)
    second = run(model, controls=[share()], state=first.state, start=1, callback=told.append)
    assert same(whole.state, second.state)
    assert len(whole.edited) == 2 * 11
    assert [p.step for p in told] == [*range(STEPS)]
    assert set(first.edited) | set(second.edited) == set(whole.edited)
    assert not set(first.edited) & set(second.edited)


def test_edited_pairs_are_steps_times_sites(model):
    done = run(model, controls=[share()], start=1, stop=3)
    chosen = Sites("self:below-top").select(model.sites)
    assert set(done.edited) == {(1, site) for site in chosen}
    assert len(done.edited) == 11
    assert run(model, controls=[share(stop=0)], stop=1).edited == ()


def trajectory(steps=STEPS, dtype=torch.float32):
    return Trajectory(latents=randn(steps + 1, 4, 8, 8, seed=9, dtype=dtype))


def test_replay_pins_the_source_after_every_step(model):
    path, told = trajectory(), []
    state = {"source": path.start, "target": path.start}
    done = run(model, state=state, rows=TRIPLE, replay=path, callback=told.append)
    for progress in told:
        assert torch.equal(progress.state["source"], path.after(progress.step))
    assert torch.equal(done.state["source"], path.clean)


def test_replay_reaches_the_target_through_controls_only(model):
    path = trajectory()
    state = {"source": path.start, "target": path.start}
    targets = [
        run(model, state=state, rows=TRIPLE, replay=replay, controls=controls, stop=2).state[
            "target"
        ]
        for controls in ([], [share()])
        for replay in (None, path)
    ]
    assert torch.equal(targets[0], targets[1])
    assert not torch.equal(targets[2], targets[3])


def test_replay_also_moves_a_source_that_has_no_rows(model):
    path = trajectory()
    state = {"source": path.start, "target": path.start}
    done = run(model, state=state, rows=TARGET, replay=path, stop=2)
    assert torch.equal(done.state["source"], path.after(1))


def test_a_source_without_rows_and_replay_keeps_its_latents(model):
    done = run(model, rows=TARGET, stop=1)
    assert torch.equal(done.state["source"], noise())
    assert not torch.equal(done.state["target"], noise())


def test_replay_comes_in_the_dtype_of_the_run(model):
    path = trajectory(dtype=torch.float64)
    state = {"source": path.start.float(), "target": path.start.float()}
    done = run(model, state=state, rows=TRIPLE, replay=path, stop=1)
    assert done.state["source"].dtype == torch.float32


@pytest.mark.parametrize("steps", [STEPS - 2, STEPS + 2])
def test_a_trajectory_of_another_number_of_steps_is_refused(model, steps):
    """Its latents belong to other noise levels: the released code replays them all the same."""
    path = trajectory(steps)
    with pytest.raises(ConfigError, match=f"{steps} steps.*{STEPS}"):
        run(model, state={"source": path.start, "target": path.start}, rows=TRIPLE, replay=path)


class Watch(Control):
    """Notes the latents it is shown, and can change the target's."""

    def __init__(self, window, add=0.0):
        self.window, self.add, self.seen = window, add, []

    def latents(self, step, rows, state):
        self.seen.append((step, state["source"]))
        return {**state, "target": state["target"] + self.add}


def test_latents_are_shown_in_the_window_with_the_exact_source(model):
    path, watch = trajectory(), Watch(Window(1, 3))
    state = {"source": path.start, "target": path.start}
    run(model, state=state, rows=TRIPLE, replay=path, controls=[watch], stop=4)
    assert [step for step, _ in watch.seen] == [1, 2]
    assert all(torch.equal(source, path.after(step)) for step, source in watch.seen)


def test_what_latents_returns_goes_on(model, plain):
    """Only the last step is changed, so the difference arrives unaltered."""
    moved = run(model, controls=[Watch(Window(STEPS - 1, STEPS), add=1.0)]).state
    assert torch.equal(moved["target"], plain["target"] + 1.0)
    assert torch.equal(moved["source"], plain["source"])


def test_null_may_be_one_for_each_step(model, plain):
    """As in null-text inversion: step i reads entry i, and only unconditional rows read it."""
    empty, other = model.encode_text([""]), model.encode_text(["a green car"])
    assert same(run(model, null=[empty] * STEPS).state, plain)
    seen = []
    run(model, null=[empty, other, empty, empty], stop=2, callback=seen.append)
    run(model, stop=2, callback=seen.append)
    assert same(seen[0].state, seen[2].state)
    assert not torch.equal(seen[1].state["target"], seen[3].state["target"])


def test_without_unconditional_rows_guidance_is_not_used(model):
    rows = PAIR.without(half="uncond")
    states = [run(model, rows=rows, guidance=guidance, stop=2).state for guidance in (0.5, 7.5)]
    assert same(*states)
    guided = run(model, guidance=1.0, stop=2).state
    assert torch.allclose(guided["target"], states[0]["target"], atol=1e-4)


def test_targets_in_one_batch_equal_targets_alone(model):
    rows, pair = TARGET.with_targets(2), {"target": torch.cat([noise(0), noise(1)])}
    together = run(model, rows=rows, state=pair, stop=2).state["target"]
    for i in range(2):
        alone = run(model, rows=TARGET, state={"target": noise(i)}, stop=2).state["target"]
        assert torch.allclose(together[i : i + 1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_at_step_3_leaves_the_model_as_it_was(model, error):
    unet = model.pipe.unet
    before = dict(unet.attn_processors)
    seen = []

    def stop(progress):
        seen.append(type(next(iter(unet.attn_processors.values()))))
        if progress.step == 3:
            raise error("stop")

    with pytest.raises(error, match="stop"):
        run(model, controls=[Share(sites=Sites("self:all"), window=Window(0, 9))], callback=stop)
    after = unet.attn_processors
    assert len(seen) == 4 and not any(isinstance(p, seen[0]) for p in after.values())
    assert after.keys() == before.keys() and all(after[path] is before[path] for path in before)
    assert restored(unet) and not unet._forward_hooks and not unet._forward_pre_hooks


class Guide(Control):
    """Watches the guidance, and may replace what comes out of it."""

    def __init__(self, window, change=None):
        self.window, self.change, self.seen = window, change, []

    def guide(self, step, rows, state, noise, guided):
        self.seen.append((step, rows, dict(state), noise, dict(guided)))
        return guided if self.change is None else self.change(rows, noise, guided)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_guide_sees_every_row_and_what_guidance_made_of_them(prediction):
    """In its window only; the noise is the network's, at the latents of the step's beginning."""
    model = adapt(tiny_sd(prediction=prediction), "tiny")
    watch, seen, w = Guide(Window(1, 3)), [], 3.0
    run(model, controls=[watch], guidance=w, callback=seen.append)
    assert [step for step, *_ in watch.seen] == [1, 2]
    step, rows, state, noise, guided = watch.seen[0]
    assert rows == PAIR and same(state, seen[0].state)
    schedule = model.schedule(STEPS)
    for branch, (u, c) in {"source": (0, 2), "target": (1, 3)}.items():
        assert torch.equal(guided[branch], noise[[u]] + w * (noise[[c]] - noise[[u]]))
        taken = schedule.step(state[branch], guided[branch], step)
        assert torch.equal(taken, seen[1].state[branch])
    x, text = rows.spread(state), model.encode_text(["", "", "a red dog", "a blue cat"])
    answer = model.predict(x, schedule.timesteps[step], text)
    assert torch.equal(noise, schedule.noise(x, answer, step))


def test_the_step_is_taken_with_what_guide_returns(model):
    """Taking the conditional half alone is denoising without guidance."""

    def conditional(rows, noise, guided):
        return {branch: noise[list(rows.find(branch, "cond"))] for branch in guided}

    changed = run(model, controls=[Guide(Window(0, STEPS), conditional)], guidance=7.5).state
    alone = run(model, rows=PAIR.without(half="uncond")).state
    for branch in changed:
        assert torch.allclose(changed[branch], alone[branch], rtol=0, atol=1e-4)


def test_guides_act_in_the_order_of_the_controls(model):
    double = Guide(Window(0, 1), lambda rows, noise, guided: {**guided, "target": noise[[0]]})
    after = Guide(Window(0, 1))
    run(model, controls=[double, after], stop=1)
    assert torch.equal(after.seen[0][-1]["target"], double.seen[0][3][[0]])
    assert torch.equal(after.seen[0][-1]["source"], double.seen[0][-1]["source"])


def test_guide_sees_the_latents_of_branches_without_rows(model):
    watch = Guide(Window(0, 1))
    path = Trajectory(latents=torch.cat([noise(seed) for seed in range(STEPS + 1)]))
    run(model, rows=TARGET, controls=[watch], replay=path, stop=1)
    _, _, state, _, guided = watch.seen[0]
    assert set(state) == {"source", "target"} and set(guided) == {"target"}
