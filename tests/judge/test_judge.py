"""The judge reads, is saved and loaded, learns, and is honest about what it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from freeprompt.errors import ImageError, ModelError
from freeprompt.judge import Judge, delta_e
from freeprompt.judge.labels import HEADS, UNKNOWN, Truth, visible_style
from freeprompt.judge.network import JudgeNetwork
from freeprompt.train.config import preset
from freeprompt.train.data import Seeds, scene_at
from freeprompt.train.judge import (
    JudgeTask,
    calibrated,
    degraded,
    labelled,
    mask_loss,
    reading_scores,
    train_judge,
    training_batch,
)
from freeprompt.train.loop import Run, Trainer
from freeprompt.world import STYLES, Scene

CPU = torch.device("cpu")
TINY = preset("tiny")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    network = JudgeNetwork(TINY.judge.channels)
    return Judge(network, 32, TINY.judge.channels, dict.fromkeys(HEADS, 1.0))


def test_a_reading(judge: Judge) -> None:
    images, _, _ = labelled([scene_at(1, i) for i in range(3)], 48)
    readings = judge.read(images.numpy())
    assert len(readings) == 3
    for reading in readings:
        assert reading.mask.shape == (48, 48)
        assert reading.mask.dtype == bool
        for head, answers in reading.probabilities.items():
            assert sum(answers.values()) == pytest.approx(1.0, abs=1e-4)
            assert reading.confidence[head] == max(answers.values())
            assert answers[getattr(reading, head)] == reading.confidence[head]


def test_pictures_of_any_size_are_read(judge: Judge) -> None:
    array = scene_at(1, 0).render(size=32).image
    images = [Image.fromarray(array), Image.fromarray(array).resize((80, 60)).convert("L")]
    first, second = judge.read(images)
    assert first.mask.shape == (32, 32)
    assert second.mask.shape == (60, 80)
    assert first.subject == judge.read(array[None])[0].subject


def test_arrays_of_another_kind_are_refused(judge: Judge) -> None:
    with pytest.raises(ImageError, match="float32"):
        judge.read(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(ImageError, match=r"\(32, 32, 3\)"):
        judge.read(np.zeros((32, 32, 3), np.uint8))


def test_saved_and_loaded(judge: Judge, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "judge.safetensors"
    judge.temperatures = dict.fromkeys(HEADS, 2.0)
    judge.save(path)
    loaded = Judge.load(path)
    judge.temperatures = dict.fromkeys(HEADS, 1.0)
    assert loaded.temperatures == dict.fromkeys(HEADS, 2.0)
    image = scene_at(1, 0).render(size=32).image[None]
    assert loaded.read(image)[0].subject == judge.read(image)[0].subject
    assert path.stat().st_size < 200_000


def test_files_that_are_no_judge(judge: Judge, tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    with pytest.raises(ModelError, match="not a judge"):
        Judge.load(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="not a judge"):
        Judge.load(path)
    save_file({"weight": torch.zeros(1)}, path, metadata={"config": '{"format": 0}'})
    with pytest.raises(ModelError, match="other words"):
        Judge.load(path)
    judge.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"weight": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(ModelError, match="does not fit"):
        Judge.load(path)


def test_the_style_that_is_seen() -> None:
    photo, drawing, sketch, _ = STYLES
    assert visible_style(Scene(subject="car", style=sketch)) == sketch
    assert visible_style(Scene(subject="car", design=0)) == photo
    assert visible_style(Scene(subject="car", design=1)) == drawing


def test_truths() -> None:
    red = Truth.of(Scene(subject="car", color="red", place="in the park"))
    assert HEADS["color"][red.color] == "red"
    assert HEADS["place"][red.place] == "in the park"
    assert Truth.of(Scene(subject="car")).color == UNKNOWN
    assert HEADS["color"][Truth.of(Scene(subject="cat")).color] is None
    assert HEADS["place"][Truth.of(Scene(subject="cat")).place] is None


def test_delta_e() -> None:
    assert delta_e((255, 255, 255), (0, 0, 0)) == pytest.approx(100.0, abs=0.01)
    assert delta_e((255, 0, 0), (0, 128, 0)) == pytest.approx(133.9, abs=1.0)
    assert delta_e([(1, 2, 3), (4, 5, 6)], (1, 2, 3)).shape == (2,)


def test_training_batches_are_functions_of_the_step() -> None:
    first, again = (training_batch(Seeds.JUDGE, 2, 8, 32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    images, masks, labels = first
    assert images.shape == (8, 32, 32, 3)
    assert masks.dtype == torch.bool
    assert labels.shape == (8, 4)


def test_degraded_images_stay_in_range_and_keep_their_hue() -> None:
    images = torch.full((16, 3, 32, 32), 0.5)
    images[:, 0] = -1
    result = degraded(images, torch.Generator().manual_seed(0))
    assert result.abs().max() <= 1
    assert (result - images).mean(dim=(0, 2, 3)).abs().max() < 0.05


def test_a_perfect_mask_costs_nothing() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, 2:5] = True
    good, bad = ((mask.float() - 0.5) * scale for scale in (80.0, -80.0))
    assert mask_loss(good, mask) < 1e-3
    assert mask_loss(bad, mask) > 10


def test_a_few_steps_lower_the_loss() -> None:
    config = replace(TINY.judge_train, batch=8, rate=1e-2)
    torch.manual_seed(0)
    task = JudgeTask(TINY.judge, config, CPU, held_out=2)
    trainer = Trainer(task, config, Run(folder=Path()))
    batch = next(task.batches(0, 1))
    losses = []
    for _ in range(15):
        trainer.step = 5  # the same degradation each time
        losses.append(trainer.update(batch)[0])
    assert losses[-1] < 0.8 * losses[0]


def test_scores_of_perfect_and_poor_readings(judge: Judge) -> None:
    scenes = [Scene(subject="car", color="red"), Scene(subject="cat", place="in the park")]
    images, masks, _ = labelled(scenes, 32)
    poor = judge.read(images.numpy())
    perfect = [
        replace(
            reading,
            subject=scene.subject,
            color=scene.color,
            place=scene.place,
            style=visible_style(scene),
            mask=mask,
        )
        for reading, scene, mask in zip(poor, scenes, masks.numpy(), strict=True)
    ]
    scores = reading_scores(perfect, scenes, masks.numpy())
    assert {k: v for k, v in scores.items() if k != "color_delta_e"} == dict.fromkeys(
        ("subject", "color", "place", "style", "mask_iou"), 1.0
    )
    assert scores["color_delta_e"] == 0


def test_calibration_calms_an_overconfident_judge(judge: Judge) -> None:
    with torch.no_grad():
        for head in judge.network.heads.values():
            head.weight.mul_(60)
    temperatures = calibrated(judge, 32)
    assert min(temperatures.values()) > 1.5


def test_a_run_leaves_weights_that_load(tmp_path: Path) -> None:
    train_judge(TINY, TINY.judge_train, Run(folder=tmp_path), CPU)
    assert Judge.load(tmp_path / "judge.safetensors").resolution == 32
