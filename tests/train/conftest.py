"""A tiny run of everything, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from freeprompt.train.config import Preset, preset
from freeprompt.train.loop import Run
from freeprompt.train.model import export_model, train_model
from freeprompt.train.vae import train_vae

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="package")
def tiny() -> Preset:
    return preset("tiny")


@pytest.fixture(scope="package")
def runs(tiny: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs `vae` and `model` of 4 uninterrupted steps, and `pipeline`."""
    folder = tmp_path_factory.mktemp("runs")
    vae = folder / "vae" / "vae"
    train_vae(tiny, tiny.vae_train, Run(folder=folder / "vae"), CPU)
    train_model(tiny, tiny.model_train, Run(folder=folder / "model"), vae, CPU)
    export_model(tiny, folder / "model", vae, folder / "pipeline")
    return folder
