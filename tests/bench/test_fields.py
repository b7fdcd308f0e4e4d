"""The panel: what can be measured is, what cannot is said."""

import numpy as np
import pytest
from tests.metrics.samples import noisy, photo

from freeprompt.bench.datasets.pie import PieItem
from freeprompt.bench.fields import load_panel
from freeprompt.bench.items import Item
from freeprompt.bench.scores import SCORES
from freeprompt.errors import ConfigError
from freeprompt.metrics import Structure, psnr, ssim
from freeprompt.models.vision import load_vit

ITEM = Item(id="0", cell="c", track="real", source="a red dog", target="a blue cat")
MASKED = PieItem(
    id="0", cell="c", track="real", source="a red dog", target="a blue cat", runs=(0, 512 * 200)
)


@pytest.fixture(scope="module")
def panel(clip_folder, vit_folder):
    options = {
        "clip": str(clip_folder),
        "dino": str(vit_folder),
        "lpips": "",
        "ways": ["area", "pie"],
    }
    return load_panel(options)


def test_all_that_there_are_weights_for(panel) -> None:
    source, edited = photo(), noisy(photo())
    scores = panel.scores(ITEM, source, edited)
    assert set(scores) == {"psnr", "ssim", "mse", "structure", "clip", "clip_direction"}
    assert scores["psnr"] == psnr(source, edited)
    assert panel.skipped == {}
    assert set(scores) <= set(SCORES)


def test_a_background_is_measured_both_ways(panel) -> None:
    source, edited = photo(), noisy(photo())
    scores = panel.scores(MASKED, source, edited)
    region = MASKED.background(source.size)
    assert scores["psnr_area"] == psnr(source, edited, region)
    assert scores["ssim_pie"] == ssim(source, edited, region, way="pie")
    assert scores["psnr_pie"] > scores["psnr_area"]
    assert scores["clip_edited"] == panel.clip.score(edited, ITEM.target, ~region)
    assert set(scores) <= set(SCORES)


def test_what_is_no_number_is_left_empty(panel) -> None:
    everything = PieItem(**{**vars(MASKED), "runs": (0, 512 * 512)})
    scores = panel.scores(everything, photo(), photo())
    for name in ("psnr", "ssim", "mse"):  # as PIE-Bench's evaluator leaves such items out
        assert scores[f"{name}_area"] is None
        assert scores[f"{name}_pie"] is None
    assert scores["clip_direction"] is None
    assert scores["psnr"] == 60
    assert not any(isinstance(v, float) and np.isnan(v) for v in scores.values())


def test_nothing_that_is_edited_has_no_clip_score(panel) -> None:
    scores = panel.scores(PieItem(**{**vars(MASKED), "runs": ()}), photo(), photo())
    assert "clip_edited" not in scores
    assert scores["psnr_pie"] == 60


def test_the_structure_distance_of_published_tables(vit_folder) -> None:
    pair = photo(), noisy(photo())
    for white in (1, 255):
        panel = load_panel({"dino": str(vit_folder), "lpips": "", "dino_white": white})
        expected = Structure(load_vit(vit_folder), white=white).distance(*pair)
        assert panel.scores(ITEM, *pair)["structure"] == expected


def test_missing_weights_are_skipped_and_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = str(tmp_path)
    panel = load_panel({"clip": folder, "dino": folder, "lpips": "squeeze", "lpips_folder": folder})
    assert set(panel.skipped) == {"CLIP", "DINO", "LPIPS"}
    assert "squeezenet1_1" in panel.skipped["LPIPS"]
    assert set(panel.scores(ITEM, photo(), photo())) == {"psnr", "ssim", "mse"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clipp": "x"}, "did you mean 'clip'"),
        ({"clip": 3}, "clip of .metrics. must be like"),
        ({"ways": ["area", "pies"]}, "did you mean 'pie'"),
        ({"ssim": "box"}, "variant of SSIM 'box'"),
        ({"dino_white": "255"}, "dino_white of .metrics. must be like 1"),
    ],
)
def test_refusals(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_panel(options)
