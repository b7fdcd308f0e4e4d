"""The one sampling loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from freeprompt.core.control import Control
from freeprompt.core.model import Model
from freeprompt.core.rows import Branch, Rows, Text
from freeprompt.core.run import Run
from freeprompt.core.schedule import Schedule
from freeprompt.core.sites import Site
from freeprompt.core.trajectory import Trajectory
from freeprompt.errors import ConfigError

State = Mapping[Branch, Tensor]
Phase = Literal["invert", "optimise", "tune", "source", "edit", "reconstruct"]


@dataclass(frozen=True)
class Progress:
    """What a callback is told after every step.

    Attributes:
        phase: What is going on.
        step: Index of the step that has just ended, in the order it was run, from 0.
        steps: Number of steps of this phase.
        state: Latents by branch.
    """

    phase: Phase
    step: int
    steps: int
    state: State


Callback = Callable[[Progress], None]


@dataclass(frozen=True)
class Denoised:
    """The end of a loop: latents by branch, and the (step, site) pairs that were edited."""

    state: State
    edited: tuple[tuple[int, Site], ...]


def denoise(
    model: Model,
    schedule: Schedule,
    state: State,
    *,
    text: Mapping[Branch, Text],
    null: Text | Sequence[Text],
    rows: Rows,
    controls: Sequence[Control] = (),
    guidance: float = 7.5,
    start: int = 0,
    stop: int | None = None,
    replay: Trajectory | None = None,
    phase: Phase = "edit",
    callback: Callback | None = None,
) -> Denoised:
    """Denoise all branches side by side from step `start` to before step `stop`.

    Args:
        model: The model.
        schedule: Its schedule.
        state: Latents by branch, (items, channels, height, width), at the noise of step `start`.
        text: Encoded prompts by branch.
        null: Unconditional embedding, or one for each step.
        rows: Batch layout. Branches without rows keep their latents (or follow `replay`).
        controls: What to do inside.
        guidance: Scale w in `uncond + w (cond - uncond)`; unused where a branch has one half only.
        start: First step.
        stop: Step to stop before; None means all steps.
        replay: Trajectory that the source is pinned to: after each step the source latent *is*
            the trajectory's. This is what FPE and MasaCtrl do on real images, and it equals
            Direct Inversion's correction (arXiv:2310.01506).
        phase: Named in `Progress`.
        callback: Called after every step; what it raises ends the run, and the model is restored.

    Returns:
        Latents by branch and the edited (step, site) pairs.
    """
    if replay is not None and replay.steps != schedule.steps:
        raise ConfigError(
            f"The trajectory to replay has {replay.steps} steps and the schedule {schedule.steps}, "
            "so its latents belong to other noise levels. Use the same number for both."
        )
    state = dict(state)
    stop = schedule.steps if stop is None else stop
    with model.attach(controls, rows) as run:
        for i in range(start, stop):
            live = [control for control in controls if i in control.window]
            guided = _predicted(model, schedule, state, i, text, null, run, guidance, live)
            state |= {b: schedule.step(state[b], noise, i) for b, noise in guided.items()}
            if replay is not None:
                # before the controls: a blend must see the exact source, not a drifted one
                state["source"] = replay.after(i).to(state["source"])
            for control in live:
                state = dict(control.latents(i, rows, state))
            if callback is not None:
                callback(Progress(phase, i, schedule.steps, dict(state)))
    return Denoised(state, tuple(run.fired))


def _predicted(
    model: Model,
    schedule: Schedule,
    state: State,
    i: int,
    text: Mapping[Branch, Text],
    null: Text | Sequence[Text],
    run: Run,
    guidance: float,
    live: Sequence[Control],
) -> State:
    """Return the noise by branch that step `i` is taken with."""
    rows = run.rows
    batch = rows.spread(state)
    embeddings = rows.embeddings(text, null if isinstance(null, Text) else null[i])
    with run.at(i, (batch.shape[-2], batch.shape[-1])):
        prediction = model.predict(batch, schedule.timesteps[i], embeddings)
    noise = schedule.noise(batch, prediction, i)  # linear, so guidance may come after it
    guided: State = rows.guide(noise, guidance)
    for control in live:
        guided = control.guide(i, rows, state, noise, guided)
    return guided
