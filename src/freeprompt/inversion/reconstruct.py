"""The honest test of an inversion: denoise its noise again, on its own, and look."""

import torch
from torch import Tensor

from freeprompt.core import PAIR, SOURCE, Model, Rows, Trajectory, denoise
from freeprompt.core.loop import Callback


@torch.no_grad()
def reconstruct(model: Model, trajectory: Trajectory, callback: Callback | None = None) -> Tensor:
    """Denoise a trajectory's noise as its inversion says, but blind to its latents.

    That is with its own prompt, at its own guidance (1 for plain DDIM), with the unconditional
    embeddings and the noises that it found. Decoding the stored latents instead would return the
    input whatever the inversion was worth.

    Args:
        model: The model of the inversion.
        trajectory: The inversion.
        callback: Called after every step.

    Returns:
        The reconstructed latent, (1, channels, height, width). `reconstruction_cost` says what it
        costs.
    """
    # at guidance 0 the prompt is known, but plays no part
    prompt = trajectory.prompt if trajectory.guidance > 0 else trajectory.negative
    text = model.encode_text([prompt])
    done = denoise(
        model,
        trajectory.schedule(model.schedule(trajectory.steps)),
        {"source": trajectory.start.to(model.device, model.dtype)},
        text={"source": text},
        null=trajectory.nulls(model.encode_text([trajectory.negative])),
        rows=source_rows(trajectory.guidance),
        guidance=trajectory.guidance,
        start=trajectory.first,
        phase="reconstruct",
        callback=callback,
    )
    return done.state["source"]


def reconstruction_cost(trajectory: Trajectory) -> int:
    """Return the sample-forwards that `reconstruct` takes."""
    return (trajectory.steps - trajectory.first) * len(source_rows(trajectory.guidance))


def source_rows(guidance: float) -> Rows:
    """Return the source's rows on its own: both halves where they are combined."""
    return PAIR.without(branch="target") if guidance > 1 else SOURCE
