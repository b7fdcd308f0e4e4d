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

from freeprompt.train import judge, model, vae
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


def vae_task(tiny: Preset) -> Any:
    return vae.VAETask(tiny.vae, tiny.vae_train, META, 2)


def model_task(tiny: Preset) -> Any:
    return model.ModelTask(tiny, tiny.model_train, vae.build_vae(tiny.vae), NoCache(), META)


def judge_task(tiny: Preset) -> Any:
    return judge.JudgeTask(tiny.judge, tiny.judge_train, META, 2)


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    def generator(seed: int, step: int, device: Any = "cpu") -> torch.Generator:
        there = torch.device(device) == META
        return MetaGenerator() if there else step_generator(seed, step, device)

    for module in (vae, model, judge):
        monkeypatch.setattr(module, "step_generator", generator)
        monkeypatch.setattr(module, "autocast", lambda config, device: nullcontext())
    monkeypatch.setattr(model, "_held_out", lambda *_: None)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("make", [vae_task, model_task, judge_task])
def test_a_step_stays_on_its_device_and_never_waits(
    tiny: Preset, tmp_path: Path, make: Callable[[Preset], Any]
) -> None:
    task = make(tiny)
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
