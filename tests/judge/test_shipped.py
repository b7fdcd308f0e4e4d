"""The judge that comes with the package reads rendered scenes well."""

import pytest
import torch

from freeprompt.judge import Judge
from freeprompt.judge.judge import shipped_weights
from freeprompt.train.data import Seeds, scene_at
from freeprompt.train.judge import judge_scores


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.set_num_threads(1)
    return Judge.load()


def test_its_file_is_small() -> None:
    assert shipped_weights().stat().st_size < 5_000_000


def test_it_reads_scenes_it_never_saw(judge: Judge) -> None:
    scenes = [scene_at(Seeds.CHECK_JUDGE, i, "held-out") for i in range(96)]
    scores = judge_scores(judge, scenes)
    assert scores["subject"] > 0.9
    assert scores["place"] > 0.95
    assert scores["color_delta_e"] < 5
    assert scores["mask_iou"] > 0.85
