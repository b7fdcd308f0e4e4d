"""The honest test of an inversion: denoise its noise again, on its own, and look."""

import torch
from torch import Tensor

from freeprompt.core import SOURCE, Model, Trajectory, denoise
from freeprompt.core.loop import Callback


@torch.no_grad()
def reconstruct(model: Model, trajectory: Trajectory, callback: Callback | None = None) -> Tensor:
    """Denoise a trajectory's noise with its own prompt and guidance 1, blind to the trajectory.

    Decoding the stored trajectory instead would return the input whatever the inversion was worth.

    Args:
        model: The model of the inversion.
        trajectory: The inversion.
        callback: Called after every step.

    Returns:
        The reconstructed latent, (1, channels, height, width). Costs one sample-forward a step.
    """
    text = model.encode_text([trajectory.prompt])
    done = denoise(
        model,
        model.schedule(trajectory.steps),
        {"source": trajectory.start.to(model.device, model.dtype)},
        text={"source": text},
        null=text,
        rows=SOURCE,
        phase="reconstruct",
        callback=callback,
    )
    return done.state["source"]
