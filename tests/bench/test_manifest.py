"""The manifest of EmojiEdit-Bench is what was drawn, and holds what it promises."""

import json
from collections import Counter

import pytest

from freeprompt.bench import draw
from freeprompt.bench.emojiedit import (
    load_emojiedit,
    load_thresholds,
    read_manifest,
    shipped_manifest,
)
from freeprompt.bench.truth import Thresholds
from freeprompt.errors import ConfigError
from freeprompt.judge import delta_e
from freeprompt.judge.labels import visible_style
from freeprompt.train.data import Seeds
from freeprompt.world import ANIMALS, COLORS, OBJECTS

ITEMS = load_emojiedit().items


def test_the_file_is_what_is_drawn() -> None:
    assert read_manifest(shipped_manifest()) == json.loads(json.dumps(draw.manifest()))


def test_a_hundred_pairs_in_every_cell_of_both_tracks() -> None:
    counts = Counter((item.track, item.cell) for item in ITEMS)
    assert set(counts) == {(t, c) for t in ("generated", "real") for c in draw.CELLS}
    assert set(counts.values()) == {100}
    assert len({item.id for item in ITEMS}) == len(ITEMS)


def test_no_seed_is_one_that_training_uses() -> None:
    assert max(draw.SEEDS.values()) < 1_000_000 <= min(Seeds)


def test_settings_are_tuned_on_other_pairs() -> None:
    tune = load_emojiedit(split="tune").items
    assert Counter(item.cell for item in tune) == dict.fromkeys(draw.CELLS, 40)
    scored = {(item.scene, item.changes) for item in ITEMS}
    assert not any((item.scene, item.changes) in scored for item in tune)
    assert not {item.scene for item in tune} & {item.scene for item in ITEMS}


@pytest.mark.parametrize("cell", draw.CELLS)
def test_each_cell_asks_for_what_its_name_says(cell) -> None:
    for item in (i for i in ITEMS if i.cell == cell):
        before, after = item.scene, item.ideal
        changed = {n for n in ("subject", "color", "place", "style") if dict(item.changes).get(n)}
        kinds = {"animal": {"subject"}, "object": {"subject"}, "none": set()}
        if cell == "two":
            assert len(changed) == 2
        else:
            assert changed == kinds.get(cell, {cell})
        assert (item.source == item.target) == (cell == "none")
        assert all(
            getattr(after, name) == value != getattr(before, name) for name, value in item.changes
        )
        assert (before.subject in ANIMALS) == (after.subject in ANIMALS)
        if cell in ("animal", "object"):
            assert before.subject in (ANIMALS if cell == "animal" else OBJECTS)


def test_what_is_asked_for_can_be_told_from_the_source() -> None:
    for item in ITEMS:
        wanted = dict(item.changes)
        if "color" in wanted:
            assert delta_e(COLORS[wanted["color"]], COLORS[item.scene.color]) >= draw.DISTINCT
        if "style" in wanted:
            assert wanted["style"] != visible_style(item.scene)
        if item.scene.subject in OBJECTS:
            assert item.scene.color is not None


def test_the_thresholds_in_force_are_those_of_the_manifest(tmp_path) -> None:
    data = read_manifest(shipped_manifest())
    assert load_thresholds() == Thresholds(**data["thresholds"])
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**data, "thresholds": {"mask_iou": 0.9}}))
    assert load_thresholds(other).mask_iou == 0.9


def test_refusals(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json.*is no manifest"):
        load_emojiedit(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"split 'tunes' .did you mean 'tune'"):
        load_emojiedit(split="tunes")
    with pytest.raises(ConfigError, match=r"Unknown cell 'colour' .did you mean 'color'"):
        load_emojiedit().only(cells=["colour"])
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        load_emojiedit().only(limit=0)


def test_a_part_is_the_first_of_each_cell() -> None:
    part = load_emojiedit().only(tracks=["real"], cells=["color", "two"], limit=3)
    assert [item.id for item in part.items] == [
        f"real/{cell}/{i:03d}" for cell in ("color", "two") for i in range(3)
    ]
