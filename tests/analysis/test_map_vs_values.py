"""The same edit with the source's maps, and with its keys and values."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.api.samples import small_sd

import freeprompt as fp
from freeprompt.analysis import map_vs_values as study
from freeprompt.core import PAIR, Share, Sites, Window, denoise
from freeprompt.errors import ConfigError
from freeprompt.images import to_images
from freeprompt.judge import Reading

PAIR_ONE = study.Pair(source=("red", "dog"), target=("blue", "cat"), seed=3)
SETTING = study.Setting(steps=2)
TOLD = {"name": "small", "fingerprint": "x"}


@pytest.fixture(scope="module")
def model():
    return fp.Editor(small_sd(), name="small").model


def alone(model, setting, names):
    """One target by itself, with the library's own Share or nothing."""
    source, target = study._noises(model, PAIR_ONE, (16, 16))
    window = Window.until(setting.share, setting.steps)
    shared = [Share(names=names, sites=Sites(setting.sites), window=window, half=setting.half)]
    texts = [model.encode_text([prompt]) for prompt in PAIR_ONE.prompts]
    done = denoise(
        model,
        model.schedule(setting.steps),
        {"source": source, "target": target if setting.other_noise else source},
        text=dict(zip(("source", "target"), texts, strict=True)),
        null=model.encode_text([""]),
        rows=PAIR,
        controls=shared if names else [],
    )
    return done.state


@pytest.mark.parametrize("other_noise", [True, False])
def test_the_three_ways_are_three_edits(model, other_noise):
    """In one batch or each by itself: the picture is the same up to rounding."""
    setting = replace(SETTING, other_noise=other_noise)
    source, *pictures = study.draw(model, PAIR_ONE, setting, (16, 16))
    for image, names in zip(pictures, ((), *study.COPIED), strict=True):
        state = alone(model, setting, names)
        for drawn, latent in ((source, state["source"]), (image, state["target"])):
            (wanted,) = to_images(model.decode(latent))
            gap = np.abs(np.asarray(drawn, int) - np.asarray(wanted, int)).max()
            assert gap <= 1
    assert len({image.tobytes() for image in (source, *pictures)}) == 4


def test_nothing_copied_is_no_edit(model):
    for empty in ({"sites": "none"}, {"share": 0.0}):
        _, plain, maps, values = study.draw(model, PAIR_ONE, replace(SETTING, **empty), (16, 16))
        assert plain.tobytes() == maps.tobytes() == values.tobytes()


def test_pairs_differ_in_subject_and_colour_and_are_always_the_same():
    many = study.pairs(60)
    assert study.pairs(7) == many[:7]
    for pair in many:
        assert pair.source[0] != pair.target[0] and pair.source[1] != pair.target[1]
    assert len({pair.seed for pair in many}) == 60
    drawn = study.Pair(source=("orange", "bus"), target=("teal", "hat"), seed=0)
    assert drawn.prompts == ("an orange bus", "a teal hat")
    with pytest.raises(ConfigError, match="at least one pair"):
        study.pairs(0)


def seen(subject, color, rgb, cells):
    mask = np.zeros((4, 4), dtype=bool)
    mask.flat[list(cells)] = True
    pixels = np.full((4, 4, 3), 255, np.uint8)
    pixels[mask] = rgb
    reading = Reading(
        subject=subject,
        color=color,
        place=None,
        style="photo",
        probabilities={},
        mask=mask,
        confidence={},
    )
    return study.Seen(image=Image.fromarray(pixels), reading=reading)


def test_scores():
    source = seen("dog", "red", (255, 0, 0), range(4))
    shape = study.score(PAIR_ONE, source, seen("cat", "blue", (0, 0, 255), range(4)))
    looks = study.score(PAIR_ONE, source, seen("cat", "red", (255, 0, 0), range(2, 8)))
    assert shape["iou"] == 1 and looks["iou"] == pytest.approx(2 / 8)
    assert shape["color_distance"] == pytest.approx(176, abs=1) and looks["color_distance"] == 0
    assert (shape["source_color"], shape["target_color"]) == (0, 1)
    assert (looks["source_color"], looks["target_color"]) == (1, 0)
    assert (shape["source_subject"], shape["target_subject"]) == (0, 1)
    unseen = study.score(PAIR_ONE, source, seen("cat", "red", (0, 0, 0), []))
    assert unseen["iou"] == 0 and math.isnan(unseen["color_distance"])
    colourless = study.score(PAIR_ONE, seen("dog", None, (9, 9, 9), [0]), source)
    assert math.isnan(colourless["source_color"])


def test_results_are_written_after_every_pair_and_gone_on_with(model, tmp_path, monkeypatch):
    path, drawn, told = tmp_path / "r.json", [], []
    real = study.draw
    monkeypatch.setattr(study, "draw", lambda *a: drawn.append(a[1]) or real(*a))

    def go(count, **more):
        return study.run(
            model,
            study.pairs(count),
            more.pop("setting", SETTING),
            size=(16, 16),
            told=more.pop("told", TOLD),
            path=path,
            shown=1,
            callback=lambda done, total: told.append((done, total)),
        )

    results, kept = go(2)
    assert len(drawn) == 2 and len(kept) == 1 and told == [(1, 2), (2, 2)]
    results, kept = go(3)
    assert [pair.seed for pair in drawn] == [0, 1, 0, 2]  # the shown one is drawn again
    written = json.loads(path.read_text())
    assert written["pairs"] == len(results.rows) == 3
    assert written["setting"] == asdict(SETTING) and written["model"] == TOLD
    ious = [row["scores"]["maps"]["iou"] for row in written["rows"]]
    assert written["summary"]["maps"]["iou"]["value"] == pytest.approx(
        np.nanmean([math.nan if x is None else x for x in ious]), nan_ok=True
    )
    for other in ({"setting": replace(SETTING, share=0.5)}, {"told": {**TOLD, "fingerprint": "y"}}):
        with pytest.raises(ConfigError, match="another model or setting"):
            go(3, **other)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="holds no results"):
        go(3)


def test_differences_are_taken_pair_by_pair():
    def row(seed, maps, values):
        return {
            "prompts": [],
            "seed": seed,
            "scores": {"maps": {"iou": maps}, "values": {"iou": values}},
        }

    rows = [row(0, 0.9, 0.4), row(1, 0.5, 0.2), row(2, None, 0.3)]
    found = study.Results(setting={}, model={}, rows=rows).difference("iou", "maps", "values")
    assert found.value == pytest.approx(0.4) and found.count == 2


def test_the_picture(model):
    kept = [(PAIR_ONE, study.draw(model, PAIR_ONE, SETTING, (16, 16)))]
    figure = study.picture(kept, SETTING)
    assert [place.get_title() for place in figure.axes] == [
        "source: a red dog",
        "a blue cat\nnothing copied",
        "a blue cat\nthe source's maps",
        "a blue cat\nthe source's keys and values",
    ]
    assert "other noise" in figure.get_supxlabel()


def test_unguided(model):
    pictures = study.draw(model, PAIR_ONE, replace(SETTING, guidance=1.0, half="cond"), (16, 16))
    assert len({image.tobytes() for image in pictures}) == 4
    assert torch.is_grad_enabled()
