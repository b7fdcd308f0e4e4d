"""A step of training on a device of its own: nothing is left on the CPU, and nothing waits for it.

The device is `meta`: it refuses tensors of another device beside its own, and it has no numbers
that could be read, as reading one makes the CPU wait for a GPU.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from freeprompt.train import conditioned, hints, instruct, judge, lcm, model, vae
from freeprompt.train.config import Preset
from freeprompt.train.data import step_generator
from freeprompt.train.loop import Run, Trainer

META = torch.device("meta")


class MetaGenerator(torch.Generator):
    """Says that it is of the device; torch has none of its own for it."""

    @property
    def device(self) -> torch.device:
        return META


class NoCache:
    """Latents and captions from nowhere."""

    def batch(self, seed: int, step: int, batch: int) -> tuple[Tensor, list[str]]:
        return torch.zeros(batch, 4, 8, 8), ["a red car"] * batch


def vae_task(tiny: Preset, runs: Path) -> Any:
    return vae.VAETask(tiny.vae, tiny.vae_train, META, 2)


def model_task(tiny: Preset, runs: Path) -> Any:
    return model.ModelTask(tiny, tiny.model_train, vae.build_vae(tiny.vae), NoCache(), META)


def judge_task(tiny: Preset, runs: Path) -> Any:
    return judge.JudgeTask(tiny.judge, tiny.judge_train, META, 2)


class NoPaths:
    """Paths from nowhere."""

    def __len__(self) -> int:
        return 8

    def at(self, chosen: Any, level: Any) -> Tensor:
        return torch.zeros(len(chosen), 4, 8, 8)

    def ends(self, chosen: Any) -> Tensor:
        return torch.zeros(len(chosen), 4, 8, 8)

    def prompts(self, chosen: Any) -> list[str]:
        return ["a red car"] * len(chosen)


def lcm_task(tiny: Preset, runs: Path) -> Any:
    return lcm.LCMTask(tiny, tiny.lcm_train, runs / "pipeline", NoPaths(), META)


def control_task(tiny: Preset, runs: Path) -> Any:
    return moved(hints.ControlNetTask(base(runs), conditioned.CONFIGS["tiny"], 2))


def adapter_task(tiny: Preset, runs: Path) -> Any:
    return moved(hints.AdapterTask(base(runs), conditioned.CONFIGS["tiny"], 2))


def instruct_task(tiny: Preset, runs: Path) -> Any:
    return moved(instruct.InstructTask(base(runs), conditioned.CONFIGS["tiny"], 2))


def base(runs: Path) -> conditioned.Base:
    return conditioned.Base(runs / "pipeline", torch.device("cpu"))


def moved(task: conditioned.ConditionedTask) -> conditioned.ConditionedTask:
    """Move a task, which copies weights while it is made; the device has none to copy."""
    task.base.pipe.to(META)
    task.module.to(META)
    task.base.levels = task.base.levels.to(META)
    task.base.device = task.device = META
    return task


TASKS = [vae_task, model_task, judge_task, lcm_task, control_task, adapter_task, instruct_task]


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    def generator(seed: int, step: int, device: Any = "cpu") -> torch.Generator:
        there = torch.device(device) == META
        return MetaGenerator() if there else step_generator(seed, step, device)

    for module in (vae, model, judge, conditioned):
        monkeypatch.setattr(module, "step_generator", generator)
    for module in (vae, model, judge, conditioned, lcm):
        monkeypatch.setattr(module, "autocast", lambda config, device: nullcontext())
    monkeypatch.setattr(model, "_held_out", lambda *_: None)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("make", TASKS)
def test_a_step_stays_on_its_device_and_never_waits(
    tiny: Preset, runs: Path, tmp_path: Path, make: Callable[[Preset, Path], Any]
) -> None:
    task = make(tiny, runs)
    trainer = Trainer(task, task.config, Run(folder=tmp_path))
    for batch in task.batches(0, 2):
        loss, norm = trainer.update(batch)
        assert loss.device == norm.device == META
    assert trainer.step == 2


def test_the_device_would_tell() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3) + torch.ones(3, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.ones((), device=META))
