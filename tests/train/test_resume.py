"""A run that was killed and resumed ends where an uninterrupted one ends, bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from freeprompt.errors import ConfigError, ModelError, SaveError
from freeprompt.train.anatomy import load_vae
from freeprompt.train.config import Preset, with_options
from freeprompt.train.loop import Run, load_checkpoint
from freeprompt.train.model import export_model, train_model
from freeprompt.train.vae import train_vae

CPU = torch.device("cpu")


def after(steps: int) -> Callable[[], bool]:
    """Ask for a stop after some steps."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= steps


def assert_same_run(first: Path, second: Path) -> None:
    one, two = load_checkpoint(first), load_checkpoint(second)
    assert one["step"] == two["step"] == 4
    for name, value in one["module"].items():
        assert torch.equal(value, two["module"][name]), name
    for ours, theirs in zip(one["ema"], two["ema"], strict=True):
        assert torch.equal(ours, theirs)
    states = zip(
        one["optimiser"]["state"].values(), two["optimiser"]["state"].values(), strict=True
    )
    for ours, theirs in states:
        for key, value in ours.items():
            same = torch.equal(value, theirs[key]) if isinstance(value, Tensor) else True
            assert same, key


def test_vae_resumes_exactly(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    train_vae(tiny, tiny.vae_train, Run(folder=tmp_path, stop=after(2)), CPU)
    assert load_checkpoint(tmp_path)["step"] == 2
    train_vae(tiny, tiny.vae_train, Run(folder=tmp_path, resume=True), CPU)
    assert_same_run(runs / "vae", tmp_path)


def test_model_resumes_exactly(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    vae = runs / "vae" / "vae"
    train_model(tiny, tiny.model_train, Run(folder=tmp_path, stop=after(3)), vae, CPU)
    train_model(tiny, tiny.model_train, Run(folder=tmp_path, resume=True), vae, CPU)
    assert_same_run(runs / "model", tmp_path)


@pytest.mark.slow
def test_workers_change_nothing(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    config, vae = replace(tiny.model_train, workers=2), runs / "vae" / "vae"
    train_model(tiny, config, Run(folder=tmp_path), vae, CPU)
    assert_same_run(runs / "model", tmp_path)


def test_training_a_decoder_on_leaves_the_encoder(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    first = load_vae(runs / "vae" / "vae")
    train_vae(tiny, tiny.vae_train, Run(folder=tmp_path), CPU, init=runs / "vae" / "vae")
    second = load_vae(tmp_path / "vae")
    assert torch.equal(first.encoder.conv_out.weight, second.encoder.conv_out.weight)
    assert not torch.equal(first.decoder.conv_in.weight, second.decoder.conv_in.weight)
    assert first.config.scaling_factor == second.config.scaling_factor
    assert torch.allclose(first.quant_conv.bias, second.quant_conv.bias, atol=1e-4)
    with pytest.raises(ConfigError, match="with --init"):
        train_vae(tiny, tiny.vae_train, Run(folder=tmp_path, resume=True), CPU)


def test_a_model_starts_from_a_saved_one(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    config = with_options(tiny.model_train, rate=1e-9, steps=1)
    arguments = (runs / "vae" / "vae", CPU, runs / "pipeline")
    train_model(tiny, config, Run(folder=tmp_path), *arguments)
    ours, theirs = load_checkpoint(tmp_path)["module"], load_checkpoint(runs / "model")["ema"]
    assert torch.allclose(ours["unet.conv_in.weight"], theirs[0], atol=1e-3)
    with pytest.raises(ModelError, match="not a saved"):
        train_model(tiny, config, Run(folder=tmp_path / "no"), *arguments[:2], tmp_path)
    other = replace(tiny, model=replace(tiny.model, text_layers=2))
    with pytest.raises(ModelError, match="cannot start this model"):
        train_model(other, config, Run(folder=tmp_path / "no"), *arguments)


def test_minutes_and_a_stop_end_preparations_too(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    vae, large = runs / "vae" / "vae", replace(tiny, cache=64)
    for run in (Run(folder=tmp_path, minutes=0), Run(folder=tmp_path, stop=lambda: True)):
        assert train_model(large, tiny.model_train, run, vae, CPU) is None
        assert not (tmp_path / "checkpoint.pt").exists()
        large = replace(large, cache=large.cache + 32)
    assert len(np.load(tmp_path / "cache" / "latents.npy")) == 64


def test_an_autoencoder_of_another_size_is_refused(
    tiny: Preset, runs: Path, tmp_path: Path
) -> None:
    vae, other = runs / "vae" / "vae", replace(tiny, vae=replace(tiny.vae, resolution=64))
    with pytest.raises(ConfigError, match="trained at 32 pixels"):
        train_model(other, tiny.model_train, Run(folder=tmp_path), vae, CPU)
    with pytest.raises(ConfigError, match="trained at 32 pixels"):
        export_model(other, runs / "model", vae, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_needs_a_folder_of_its_own(tiny: Preset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SaveError, match="Choose another"):
        train_vae(tiny, tiny.vae_train, Run(folder=tmp_path / "file"), CPU)


def test_fresh_run_refuses_a_used_folder(tiny: Preset, runs: Path) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        train_vae(tiny, tiny.vae_train, Run(folder=runs / "vae"), CPU)


def test_resume_needs_a_checkpoint(tiny: Preset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without --resume"):
        train_vae(tiny, tiny.vae_train, Run(folder=tmp_path, resume=True), CPU)


def test_log_and_sheets(runs: Path) -> None:
    lines = (runs / "model" / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [e["step"] for e in entries] == [1, 2, 3, 4, 4]
    assert {"loss", "images", "images_per_second", "rate"} <= entries[0].keys()
    assert "held_out_loss" in entries[-1]
    assert (runs / "model" / "sheet-0000004.png").is_file()
