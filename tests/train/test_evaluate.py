"""The evaluation's arithmetic, and one run of it on the tiny model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from freeprompt.errors import ConfigError, ModelError
from freeprompt.judge import Judge
from freeprompt.judge.labels import HEADS
from freeprompt.judge.network import JudgeNetwork
from freeprompt.train.anatomy import load_pipeline
from freeprompt.train.config import Preset
from freeprompt.train.evaluate import (
    EvalConfig,
    balanced_scenes,
    evaluate_model,
    nearest,
    spread,
    update_card,
)
from freeprompt.world import SUBJECTS, is_held_out

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def judge_weights(tiny: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = JudgeNetwork(tiny.judge.channels)
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    Judge(network, 32, tiny.judge.channels, dict.fromkeys(HEADS, 1.0)).save(path)
    return path


def test_prompts_are_balanced_and_a_quarter_is_new() -> None:
    scenes = balanced_scenes(2 * len(SUBJECTS))
    assert sorted(s.subject for s in scenes) == sorted(2 * list(SUBJECTS))
    new = sum(is_held_out(scene) for scene in scenes)
    assert 0.1 * len(scenes) < new <= 0.25 * len(scenes)
    assert balanced_scenes(10) == scenes[:10]


def test_nearest_and_spread() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    others = np.stack([images[0] + 10, images[0] + 3])
    assert nearest(images, others) == pytest.approx(3.0)
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :, 0] = masks[1, :, 2] = True
    assert spread(masks) == pytest.approx(0.25)


def test_a_whole_evaluation(runs: Path, judge_weights: Path, tmp_path: Path) -> None:
    config = EvalConfig(prompts=4, steps=1, scenes=4)
    report = evaluate_model(runs / "pipeline", tmp_path, config, CPU, judge_weights)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["vae_psnr"] == pytest.approx(report.vae_psnr)
    assert "| subject |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "sheet.png").is_file()


def test_a_card_takes_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("| new |\n")
    (tmp_path / "sheet.png").write_bytes(b"picture")
    card = tmp_path / "card.md"
    card.write_text("Above.\n<!-- measured -->\nold\n<!-- /measured -->\nBelow.\n")
    update_card(card, tmp_path)
    wanted = "Above.\n<!-- measured -->\n| new |\n<!-- /measured -->\nBelow.\n"
    assert card.read_text() == wanted
    assert card.with_suffix(".png").read_bytes() == b"picture"
    card.write_text("No place.")
    with pytest.raises(ConfigError, match="no place for the table"):
        update_card(card, tmp_path)


def test_what_cannot_be_evaluated(judge_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        evaluate_model(tmp_path, tmp_path, EvalConfig(prompts=1), CPU, judge_weights)
    with pytest.raises(ModelError, match="not a saved"):
        load_pipeline(tmp_path, CPU)
    with pytest.raises(ModelError, match="no such folder"):
        load_pipeline(tmp_path / "missing", CPU)


@pytest.mark.parametrize(
    "part", ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
)
def test_a_damaged_pipeline_is_refused(runs: Path, tmp_path: Path, part: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "pipeline", copy)
    (copy / part).write_bytes((copy / part).read_bytes()[:100])
    with pytest.raises(ModelError, match="not a saved"):
        load_pipeline(copy, CPU)
