"""A tiny model at the benchmark's size, the judge, and small runs."""

from pathlib import Path

import pytest
from tests.api.samples import small_unet
from tests.metrics.conftest import clip_folder, vit_folder  # noqa: F401

from freeprompt.bench import Contender, Data, Plan
from freeprompt.judge import Judge
from freeprompt.models.tiny import tiny_sd

QUIET = {"lpips": ""}  # no network has weights here


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A random model for 64 pixels, as `save_pretrained` leaves it: other processes find it too."""
    folder = tmp_path_factory.mktemp("model")
    pipe = tiny_sd(sample_size=16, vae_channels=(8, 8, 8))
    pipe.unet = small_unet(sample_size=16)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def full_model(tmp_path_factory) -> Path:
    """One with all of Stable Diffusion 1's layers, which some methods address by number."""
    folder = tmp_path_factory.mktemp("full-model")
    tiny_sd(sample_size=16, channels=(8, 8, 8, 8), vae_channels=(8, 8, 8)).save_pretrained(folder)
    return folder


@pytest.fixture
def plan(model) -> Plan:
    """Two kinds of edits on both tracks, two methods, few steps."""
    few = {"steps": 2, "guidance": 3.0}
    return Plan(
        model=str(model),
        device="cpu",
        metrics=QUIET,
        data=Data(cells=("color", "none"), limit=1),
        contenders=(
            Contender(method="copy", **few),
            Contender(method="ideal"),
            Contender(method="fpe", **few),
            Contender(method="sdedit", parameters={"strength": 0.5}, **few),
        ),
    )
