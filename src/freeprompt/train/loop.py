"""One training loop for all networks: killable at any moment, resumed exactly."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from freeprompt.errors import ConfigError, ModelError, SaveError
from freeprompt.train.config import TrainConfig
from freeprompt.train.files import replacing
from freeprompt.train.optim import build_optimiser, enter_thread

CHECKPOINT = "checkpoint.pt"


class Task(Protocol):
    """What the loop needs to know of a network."""

    module: nn.Module

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batches of steps `start` .. `stop - 1`."""

    def prepare(self, batch: Any, step: int) -> tuple[Tensor, ...]:
        """Bring a batch to the device and add its random draws, which depend on `step` alone."""

    def loss(self, *parts: Tensor) -> Tensor:
        """Compute the mean loss of prepared tensors, or of the same slice of each of them."""

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the averaged weights and write a picture sheet into `folder`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run lives and when it ends.

    Attributes:
        folder: Folder of checkpoint, log and sheets; made if missing.
        resume: Whether to go on from the folder's checkpoint.
        minutes: Wall-clock limit from `began` on, preparations included, or None.
        stop: Asked after each step; True ends the run with a checkpoint.
        report: Receives one line of text at a time.
        began: When the run was described, by `time.monotonic`.
    """

    folder: Path
    resume: bool = False
    minutes: float | None = None
    stop: Callable[[], bool] = field(default=lambda: False)
    report: Callable[[str], None] = field(default=lambda line: None)
    began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether its minutes have passed."""
        return self.minutes is not None and time.monotonic() - self.began >= 60 * self.minutes

    def ends(self) -> bool:
        """Tell a preparation whether to end before it is done."""
        return self.over or self.stop()


class EMA:
    """Exponential moving average of a module's parameters.

    The decay grows as (1 + step) / (10 + step) up to its final value, so that the average of a
    short run is not dominated by the random start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the parameters after optimiser step `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(self.parameters, now, 1 - decay)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged parameters; put its own back at the end."""
        own = [p.data for p in module.parameters()]
        try:
            for parameter, average in zip(module.parameters(), self.parameters, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, data in zip(module.parameters(), own, strict=True):
                parameter.data = data


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device.

    Raises:
        ConfigError: if it is none of these or the machine lacks the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"Unknown device {name!r}. Try auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"Training runs on the CPU or on CUDA, not on {name!r}.")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"{count} CUDA device(s), counted from 0" if count else "no CUDA device"
        raise ConfigError(f"Device {name!r} was asked for, but torch sees {seen}.")
    return device


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Run what is inside in the precision of the configuration."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def rate_at(config: TrainConfig, step: int) -> float:
    """Compute the learning rate of one step: linear warm-up, then constant or half a cosine."""
    warm = min(1.0, (step + 1) / config.warmup)
    if not config.decay:
        return config.rate * warm
    done = min(1.0, step / config.steps)
    return config.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def save_atomically(value: Any, path: Path) -> None:
    """Write with `torch.save` so that `path` is at every moment either the old or the new file.

    Raises:
        SaveError: if it cannot be written.
    """
    with replacing(path) as draft:
        torch.save(value, draft)


class Trainer:
    """State of one run: parameters, their average, the optimiser and the step.

    Args:
        task: The network and its loss.
        config: How to train it.
        run: Where, and when to stop.
    """

    def __init__(self, task: Task, config: TrainConfig, run: Run) -> None:
        self.task, self.config, self.run = task, config, run
        self.step = 0
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        self.pool = ThreadPoolExecutor(
            config.threads, initializer=enter_thread, initargs=(config.threads,)
        )
        self.ema = EMA(task.module, config.ema)
        self.optimiser = build_optimiser(task.module, config)

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that are trained."""
        return [name for name, p in self.task.module.named_parameters() if p.requires_grad]

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            ModelError: if there are weights that are no numbers any more; the file stays as it is.
            SaveError: if it cannot be written.
        """
        if not torch.stack(torch._foreach_norm(self.ema.parameters)).isfinite().all():
            raise ModelError(
                f"The run in {self.run.folder} has diverged: after step {self.step} there are "
                f"weights that are not finite. Its {CHECKPOINT}, if there is one, is of an earlier "
                "step: go on from that with a lower --rate, or start again with one."
            )
        state = {
            "step": self.step,
            "trained": self.trained,
            "module": self.task.module.state_dict(),
            "ema": self.ema.parameters,
            "optimiser": self.optimiser.state_dict(),
            "config": asdict(self.config),
        }
        save_atomically(state, self.run.folder / CHECKPOINT)

    def load(self) -> None:
        """Read the checkpoint.

        Raises:
            ConfigError: if there is none, it is of another network, or other parts of it were
                trained.
        """
        state = load_checkpoint(self.run.folder)
        try:
            self.task.module.load_state_dict(state["module"])
            for average, stored in zip(self.ema.parameters, state["ema"], strict=True):
                average.copy_(stored)
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"The {CHECKPOINT} of {self.run.folder} is of another network or of another "
                "preset. Resume a run with the preset that it was started with (--preset)."
            ) from error
        if state.get("trained", self.trained) != self.trained:
            raise ConfigError(
                f"The run in {self.run.folder} trains other parts of the network than it was "
                "started with. Resume it as it was started: with --init, or without."
            )
        self.step = state["step"]

    def update(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Take one optimiser step.

        Returns:
            The loss and the norm of the gradient before clipping, on the device: to read them
            here would make the CPU wait for a GPU in every step.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.config, self.step)
        loss = self.gradients(self.task.prepare(batch, self.step))
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimiser.step()
        self.ema.update(self.task.module, self.step)
        self.step += 1
        return loss, norm

    def gradients(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Set every parameter's gradient; return the loss.

        With several threads each takes a share of the batch on a core of its own: that beats two
        cores on one operation, above all when other programs use the cores too.
        """
        count = self.config.threads
        shares = list(zip(*(tensor.chunk(count) for tensor in batch), strict=True))
        first, *rest = self.pool.map(self.share, shares, [len(batch[0])] * len(shares))
        for loss, gradients in rest:
            torch._foreach_add_(first[1], gradients)
            first = (first[0] + loss, first[1])
        for parameter, gradient in zip(self.parameters, first[1], strict=True):
            parameter.grad = gradient
        return first[0]

    def share(self, tensors: tuple[Tensor, ...], whole: int) -> tuple[Tensor, list[Tensor]]:
        """Compute the loss and the gradients of one share of a batch of `whole` items."""
        loss = self.task.loss(*tensors) * (len(tensors[0]) / whole)
        return loss.detach(), list(torch.autograd.grad(loss, self.parameters))

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights and log the result."""
        with self.ema.applied(self.task.module), torch.no_grad():
            result = self.task.validate(self.step, self.run.folder)
        self.log({"step": self.step, **result})
        return result

    def log(self, entry: dict[str, float]) -> None:
        """Append one line to `log.jsonl` and report it."""
        with (self.run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.run.report("  ".join(f"{key} {value:.5g}" for key, value in entry.items()))


class Timer:
    """Says when the next checkpoint or sheet is due."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.since = time.monotonic()

    def due(self) -> bool:
        """Tell whether the time has passed, and start anew if so."""
        if time.monotonic() - self.since < 60 * self.minutes:
            return False
        self.since = time.monotonic()
        return True


class _Meter:
    """Averages losses and counts images between two lines of the log."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start a new interval."""
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.since = time.monotonic()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Take in one step."""
        self.losses.append(loss)
        self.norms.append(norm)

    def summary(self, trainer: Trainer) -> dict[str, float]:
        """Summarise the interval."""
        loss, norm = (float(torch.stack(x).double().mean()) for x in (self.losses, self.norms))
        seconds = time.monotonic() - self.since  # a GPU has come thus far, as its numbers are here
        return {
            "step": trainer.step,
            "images": trainer.step * trainer.config.batch,
            "loss": loss,
            "gradient": norm,
            "rate": rate_at(trainer.config, trainer.step),
            "images_per_second": len(self.losses) * trainer.config.batch / seconds,
        }


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a run's checkpoint onto the CPU.

    Raises:
        ConfigError: if the folder has none.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise ConfigError(f"{folder} has no {CHECKPOINT}; start the run without --resume.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def check_run(run: Run) -> None:
    """Make a run's folder, or refuse it before there is any work.

    Raises:
        ConfigError: if a fresh run finds a checkpoint, or a resumed one finds none.
        SaveError: if the folder cannot be made.
    """
    found = (run.folder / CHECKPOINT).exists()
    if run.resume and not found:
        raise ConfigError(f"{run.folder} has no {CHECKPOINT}; start the run without --resume.")
    if found and not run.resume:
        raise ConfigError(
            f"{run.folder} already has a {CHECKPOINT}. Add --resume to go on with it, "
            "or choose another folder."
        )
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(
            f"{str(run.folder)!r} cannot be the folder of a run ({error.strerror}). Choose another."
        ) from error


def fit(task: Task, config: TrainConfig, run: Run) -> Trainer:
    """Train until the steps, the minutes or `run.stop` end it; always leave a checkpoint.

    A run that ends by itself is validated; one that is stopped ends at once.

    Args:
        task: The network and its loss.
        config: How to train it.
        run: Where, whether to resume, and when to stop.

    Returns:
        The trainer, with the averaged weights in `ema`.

    Raises:
        ConfigError: if a fresh run finds a checkpoint, or a resumed one finds none.
    """
    torch.set_flush_denormal(True)
    check_run(run)
    trainer = Trainer(task, config, run)
    if run.resume:
        trainer.load()
    checkpoint, sheet = Timer(config.checkpoint_minutes), Timer(config.sheet_minutes)
    meter, stopped = _Meter(), False
    for batch in task.batches(trainer.step, config.steps):
        meter.add(*trainer.update(batch))
        if trainer.step % config.log_every == 0:
            trainer.log(meter.summary(trainer))
            meter.clear()
        if checkpoint.due():
            trainer.save()
        if sheet.due():
            trainer.validate()
            meter.clear()
        stopped = run.stop()
        if stopped or run.over:
            break
    trainer.save()
    if not stopped:
        trainer.validate()
    return trainer
