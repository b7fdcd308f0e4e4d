"""A small training: Adam on a few tensors, whose whole state can be written down and taken up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeprompt.errors import ConfigError, SaveError

MOMENTS = ("exp_avg", "exp_avg_sq")
STEPS = "steps"

Gradients = Callable[[int], Sequence[Tensor]]


class Fit:
    """Adam on named tensors, in float32 whatever they are stored as elsewhere.

    The state after any step can be packed and restored, and what follows is the same to the bit.

    Args:
        values: Where to start from; they are copied.
        rate: Learning rate, the same at every step.
        decay: Decoupled weight decay.
        clip: Largest norm of all gradients together, or None.

    Attributes:
        values: The tensors as they are now; changed in place, so who shares them sees it.
        steps: Number of steps taken.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        rate: float,
        *,
        decay: float = 0.0,
        clip: float | None = None,
    ):
        self.values = {
            name: value.detach().to(torch.float32, copy=True) for name, value in values.items()
        }
        self.steps, self.clip = 0, clip
        self._adam = torch.optim.AdamW(self.values.values(), lr=rate, weight_decay=decay)

    def advance(self, gradients: Sequence[Tensor]) -> None:
        """Take one step, along one gradient a value, in their order."""
        for value, gradient in zip(self.values.values(), gradients, strict=True):
            value.grad = gradient.to(value, copy=self.clip is not None)  # clipping writes into it
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.values.values(), self.clip)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.steps += 1

    def to(self, steps: int, gradients: Gradients, told: Callable[[int], None]) -> None:
        """Take steps until there are `steps` of them.

        Args:
            steps: How many there shall be in all.
            gradients: Called with the index of each step; returns its gradients.
            told: Called with the index after each step; what it raises ends the training.
        """
        while self.steps < steps:
            self.advance(gradients(self.steps))
            told(self.steps - 1)

    def pack(self, *, finished: bool = False) -> dict[str, Tensor]:
        """Return the whole state, or, of a finished training, its values alone."""
        tensors = {f"value/{name}": value for name, value in self.values.items()}
        tensors[STEPS] = torch.tensor(self.steps)
        for name, value in self.values.items():
            if self.steps and not finished:
                state = self._adam.state[value]
                tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS}
        return {name: x.detach().cpu().contiguous() for name, x in tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `pack` returned.

        Raises:
            KeyError: if something is missing.
        """
        steps = int(tensors[STEPS])
        for name, value in self.values.items():
            value.copy_(tensors[f"value/{name}"])
            found = {m: tensors[f"{m}/{name}"] for m in MOMENTS if f"{m}/{name}" in tensors}
            if found:
                moments = {m: x.to(value).clone() for m, x in found.items()}
                self._adam.state[value] = {"step": torch.tensor(float(steps)), **moments}
        self.steps = steps


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where the state of a training is kept.

    Attributes:
        file: The file.
        key: What the training depends on beside its length; a file with another key is refused.
        every: Steps between two writings; None writes at the end, or when interrupted.
        slim: Whether a finished training keeps its values alone, and cannot be prolonged.
    """

    file: Path
    key: str = ""
    every: int | None = None
    slim: bool = False

    def read(self, fit: Fit) -> None:
        """Go on from the file, if it is there.

        Raises:
            ConfigError: if it is not of this training.
        """
        if not self.file.exists():
            return
        try:
            with safe_open(self.file, framework="pt") as stored:
                key = (stored.metadata() or {}).get("key", "")
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            if key == self.key:
                return fit.restore(tensors)
            reason = "it was made with other settings, pictures or another model"
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            reason = str(error)
        raise ConfigError(
            f"{str(self.file)!r} is not the state of this training: {reason}. Remove it, or keep "
            "states elsewhere."
        )

    def write(self, fit: Fit, *, finished: bool) -> None:
        """Write the state, whole or not at all.

        Raises:
            SaveError: if it cannot be written.
        """
        draft = self.file.with_suffix(".partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(fit.pack(finished=finished and self.slim), draft, {"key": self.key})
            draft.replace(self.file)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise SaveError(
                f"{str(self.file)!r} could not be written ({error}). Choose a folder that you may "
                "write to, on a disk with free space."
            ) from error


def fit_kept(
    fit: Fit, kept: Kept | None, steps: int, gradients: Gradients, told: Callable[[int], None]
) -> None:
    """Train up to `steps`, going on from a file and leaving one, also when interrupted.

    Args:
        fit: The training.
        kept: Where its state is kept; None keeps nothing.
        steps: As for `Fit.to`.
        gradients: Likewise.
        told: Likewise.

    Raises:
        ConfigError: if the file is of another training.
        SaveError: if it cannot be written.
    """
    if kept is None:
        return fit.to(steps, gradients, told)
    kept.read(fit)
    began = fit.steps
    try:
        while fit.steps < steps:
            fit.to(min(steps, fit.steps + (kept.every or steps)), gradients, told)
            if fit.steps < steps:
                kept.write(fit, finished=False)
    finally:
        if fit.steps > began:
            kept.write(fit, finished=fit.steps == steps)
