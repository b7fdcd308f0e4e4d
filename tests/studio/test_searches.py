"""What a layer search found, read and drawn for the page."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image
from tests.studio.searching import SITES, write_search

from freeprompt.studio import searches
from freeprompt.studio.searches import Choice

SELF = [site.index for site in SITES if site.kind == "self"]
BELOW = frozenset(site.index for site in SITES if site.kind == "self" and site.scale > 1)


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    write_search(tmp_path / "run" / "search.json", "tiny-sd")
    return tmp_path / "run" / "search.json"


def test_only_searches_of_the_model_are_found(path):
    folder = path.parents[1]
    for name, text in (("other", ""), ("claims", '{"claim": "search", "model": "tiny-sd"}')):
        (folder / name).mkdir()
        (folder / name / "search.json").write_text(text)
    (folder / "foreign").mkdir()
    write_search(folder / "foreign" / "search.json", "sd-1.5")
    assert searches.found(folder, "tiny-sd") == ["run/search.json"]
    assert searches.found(folder / "nowhere", "tiny-sd") == []


def test_the_present_choice_is_found_among_the_candidates(path):
    search = searches.read(path, SITES)
    mark, same = search.mark(Choice(layers=BELOW, start=0.0, stop=0.8))
    assert (mark.label, same) == ("self:below-top, 0.8", True)
    assert mark.choice.layers == BELOW
    # 0.84 of 10 steps are the same 8 steps
    assert search.mark(Choice(layers=BELOW, start=0.0, stop=0.84)) == (mark, True)


def test_a_choice_that_was_not_tried_has_a_nearest_one(path):
    search = searches.read(path, SITES)
    nearly = Choice(layers=BELOW - {min(BELOW)}, start=0.1, stop=0.8)
    mark, same = search.mark(nearly)
    assert not same
    assert mark.choice.distance(nearly, len(SELF)) < 0.2


def test_the_front_is_in_order(path):
    front = searches.read(path, SITES).front
    assert len(front) > 2
    assert all(tried.on_front for tried in front)
    kept = [tried.preservation for tried in front]
    assert kept == sorted(kept, reverse=True)


def test_the_curve_is_drawn_and_described(path):
    search = searches.read(path, SITES)
    choice = Choice(layers=BELOW, start=0.0, stop=0.8)
    figure = ElementTree.fromstring(searches.curve(search, choice))
    (drawing,) = figure.iter("svg")
    kinds = [circle.get("class") for circle in drawing.iter("circle")]
    assert len(kinds) == len(search.tried) + 1
    assert kinds.count("point best") == len(search.front)
    assert kinds[-1] == "ring"
    assert "self:below-top, 0.8" in drawing.get("aria-label")
    (line,) = drawing.iter("polyline")
    assert len(line.get("points").split()) == len(search.front)
    low, high = (0, 0), (searches.WIDTH, searches.HEIGHT)
    for circle in drawing.iter("circle"):
        at = float(circle.get("cx")), float(circle.get("cy"))
        assert all(a < x < b for a, x, b in zip(low, at, high, strict=True))
    other = Choice(layers=frozenset({SELF[0], SELF[-1]}), start=0.5, stop=0.6)
    assert "not tried" in searches.curve(search, other)


@pytest.mark.parametrize(
    "span", [(0.13, 0.96), (0, 1), (-0.08, 1.06), (0.5, 0.7), (0.62, 0.641), (0, 0.2), (0, 599)]
)
def test_axes_have_round_values(span):
    values = searches._round_values(*span)
    assert 2 <= len(values) <= 7
    assert all(span[0] <= value <= span[1] for value in values)
    assert all(len(f"{value:g}") <= 5 for value in values)


def test_a_file_that_is_none(path):
    Image.new("RGB", (2, 2)).save(path.with_suffix(".png"))
    path.write_text('{"found": [{}], "scorer": "", "steps": 1, "verdict": ""}')
    with pytest.raises(ValueError, match="missing"):
        searches.read(path, SITES)
