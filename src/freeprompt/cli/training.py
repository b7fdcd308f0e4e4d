"""What every command of `freeprompt train` that trains is asked, in one place."""

import inspect
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freeprompt.cli.options import gives

if TYPE_CHECKING:
    import torch

    from freeprompt.train.config import Preset, TrainConfig
    from freeprompt.train.loop import Run

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PresetName = Annotated[str, typer.Option("--preset", help="Sizes: tiny, cpu64 or gpu128.")]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a training is to be run; each field is an option."""

    preset: PresetName = "cpu64"
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = (
        False
    )
    minutes: Annotated[float | None, typer.Option(help="Stop after this time.")] = None
    steps: Annotated[int | None, typer.Option(help="Length of the whole run.")] = None
    batch: Annotated[int | None, typer.Option(help="Scenes per step.")] = None
    rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None
    seed: Annotated[int | None, typer.Option(help="0 .. 99999; another run, other scenes.")] = None
    device: Device = "auto"

    @property
    def numbers(self) -> dict[str, int | float | None]:
        """What replaces the preset's own; None does not."""
        return {"steps": self.steps, "batch": self.batch, "rate": self.rate, "seed": self.seed}

    def sized(self, part: str) -> "tuple[Preset, TrainConfig, torch.device]":
        """Return the preset, how one of its parts is trained, and on what.

        Raises:
            ConfigError: if there is no such preset or device, or a number is not positive.
        """
        from freeprompt.train.config import preset, with_options

        sizes = preset(self.preset)
        config = with_options(getattr(sizes, f"{part}_train"), **self.numbers)
        return sizes, config, prepare(self.device, config.threads)

    def start(self, folder: Path) -> "Run":
        """Describe a run that ends, with a checkpoint, at the first Ctrl-C or SIGTERM.

        Raises:
            ConfigError: if its minutes are none.
        """
        from freeprompt.errors import ConfigError
        from freeprompt.train.loop import Run

        if self.minutes is not None and not self.minutes > 0:  # nan would never end it
            raise ConfigError(f"--minutes is {self.minutes:g}, but must be above 0.")
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        return Run(
            folder=folder,
            resume=self.resume,
            minutes=self.minutes,
            stop=ended.is_set,
            report=typer.echo,
        )


trains = gives("asked", inspect.signature(Asked).parameters, Asked)


def prepare(device: str, threads: int) -> "torch.device":
    """Choose the device; a core for each share of a batch, see `Trainer.gradients`."""
    import torch

    from freeprompt.train.loop import resolve_device

    if threads > 1:
        torch.set_num_threads(1)
    return resolve_device(device)
