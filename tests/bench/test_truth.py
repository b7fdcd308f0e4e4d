"""Scores against the truth rank pictures as any person would."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from freeprompt.bench.emojiedit import load_emojiedit, load_thresholds
from freeprompt.bench.items import SceneItem
from freeprompt.bench.truth import CRITERIA, iou, truth_scores
from freeprompt.world import parse_scene

LIMITS = load_thresholds()
SIZE = 64


def item(caption="a red car on the street", seed=3, track="real", **changes) -> SceneItem:
    scene = parse_scene(caption, seed)
    row = {"id": "here/0", "scene": scene.to_dict(), "changes": changes, "seed": 0}
    return SceneItem.of(row, track)


def drawn(scene) -> Image.Image:
    return Image.fromarray(scene.render(SIZE).image)


def scored(judge, asked, edited, source=None):
    return truth_scores(asked, source or drawn(asked.scene), edited, judge, LIMITS)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


@pytest.fixture(scope="module")
def baselines(judge):
    """Mean scores by baseline and cell on real images, from the manifest."""
    items = load_emojiedit().only(tracks=["real"], limit=8).items
    found = {}
    for one in items:
        made = {"copy": drawn(one.scene), "ideal": drawn(one.ideal), "noise": noise()}
        for name, picture in made.items():
            found.setdefault((name, one.cell), []).append(scored(judge, one, picture))
    return found


def mean(rows, score):
    values = [row[score] for row in rows if row[score] is not None]
    return float(np.mean(values))


@pytest.mark.parametrize("cell", ["animal", "object", "color", "place", "style", "two"])
def test_baselines_rank_as_any_person_would(baselines, cell) -> None:
    copy, ideal, bad = (baselines[name, cell] for name in ("copy", "ideal", "noise"))
    assert mean(ideal, "right") >= 0.75  # what is missing is the judge's own error
    assert mean(copy, "right") == mean(bad, "right") == 0
    assert mean(ideal, "success") >= 0.75 > mean(copy, "success") == 0
    assert min(mean(ideal, "kept"), mean(copy, "kept")) > 0.9 > mean(bad, "kept")
    assert mean(ideal, "ideal_psnr") == 60 > mean(copy, "ideal_psnr") > mean(bad, "ideal_psnr")
    assert min(mean(ideal, "layout"), mean(copy, "layout")) > mean(bad, "layout") + 0.2
    assert mean(ideal, "layout") > 0.85
    if cell in ("animal", "object", "color"):
        assert mean(ideal, "background_psnr") == mean(copy, "background_psnr") == 60
        assert mean(bad, "background_psnr") < 15


def test_leaving_the_source_is_right_where_nothing_shall_change(baselines) -> None:
    assert mean(baselines["copy", "none"], "right") >= 0.75
    assert baselines["copy", "none"][0]["success"] is None


def test_an_ideal_edit_meets_every_criterion(judge) -> None:
    asked = item(color="blue")
    scores = scored(judge, asked, drawn(asked.ideal))
    assert scores["right"] == scores["success"] == scores["kept"] == 1
    assert scores["failed"] == []
    assert scores["read"]["color"] == "blue"
    assert scores["color_error"] == 0


def test_each_criterion_is_missed_by_what_misses_it(judge) -> None:
    asked = item(color="blue")
    ideal = asked.ideal
    wrong = {
        "success": ideal.edited(color="green"),
        "kept": ideal.edited(place="in the park"),
        "layout": replace(ideal, x=0.36 if ideal.x > 0.5 else 0.64, scale=0.45),
        "background": replace(ideal, seed=ideal.seed + 5),
    }
    for name, scene in wrong.items():
        assert name in scored(judge, asked, drawn(scene))["failed"], name
    far = Image.fromarray(255 - np.asarray(drawn(ideal)))
    assert set(scored(judge, asked, far)["failed"]) >= {"success", "background", "ideal"}
    assert set(wrong) < set(CRITERIA)


def test_another_subject_is_placed_by_its_box(judge) -> None:
    asked = item("a dog standing in the park", subject="giraffe")
    scores = scored(judge, asked, drawn(asked.ideal))
    assert scores["layout"] == scores["box_iou"] != scores["mask_iou"]
    small = drawn(replace(asked.ideal, scale=0.3))
    assert "layout" in scored(judge, asked, small)["failed"]


def test_neighbouring_colors_count_as_one(judge) -> None:
    asked = item(color="navy")
    scores = scored(judge, asked, drawn(asked.scene.edited(color="indigo")))
    assert scores["read"]["color"] == "indigo"
    assert scores["success"] == 1
    assert 0 < scores["color_error"] < LIMITS.color_delta_e


def test_a_new_place_frees_the_background_and_nothing_else(judge) -> None:
    asked = item(place="in the snow")
    scores = scored(judge, asked, drawn(asked.ideal))
    assert scores["background_psnr"] is None
    assert scores["right"] == 1
    assert "ideal" not in scored(judge, asked, drawn(replace(asked.ideal, seed=99)))["failed"]
    blue = drawn(asked.ideal.edited(color="blue"))
    assert scored(judge, asked, blue)["failed"] == ["kept"]


def test_of_a_generated_source_only_what_can_be_seen_is_known(judge) -> None:
    """The model drew a bus where the prompt said car: keeping the bus is right."""
    asked = item(track="generated", color="blue")
    bus = parse_scene("a red bus on the street", seed=8)
    source, edited = drawn(bus), drawn(bus.edited(color="blue"))
    scores = scored(judge, asked, edited, source)
    assert scores["right"] == 1
    assert scores["ideal_psnr"] is None
    car = drawn(asked.ideal)
    assert "kept" in scored(judge, asked, car, source)["failed"]


def test_a_style_that_no_prompt_names_may_be_a_photo_or_a_drawing(judge) -> None:
    asked = item("a red car on the street", seed=3, color="blue")
    assert asked.scene.style is None
    for style in ("a photo of", "a drawing of"):
        picture = drawn(asked.ideal.edited(style=style))
        assert scored(judge, asked, picture)["kept"] == 1
    assert scored(judge, asked, drawn(asked.ideal.edited(style="a sketch of")))["kept"] < 1


def test_overlap() -> None:
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert iou(a, b) == 1
    a[0], b[:, :2] = True, True
    assert iou(a, b) == pytest.approx(2 / 6)
