"""Pictures say what they show: panels, titles, labels and files."""

import sys

import numpy as np
import pytest
from PIL import Image
from tests.api.samples import small_sd

import freeprompt as fp
from freeprompt.analysis import pictures
from freeprompt.analysis.panels import OKABE_ITO, need_matplotlib, save_figure, to_image
from freeprompt.errors import ConfigError, MissingDependency

PROMPT, TARGET = "a red dog in the park", "a blue cat"


@pytest.fixture(scope="module")
def maps():
    editor = fp.Editor(small_sd(), name="small")
    return editor.attention(PROMPT, words=["red", "dog", "<end>"], steps=8, by_step=True, width=24)


@pytest.fixture(scope="module")
def edit():
    editor = fp.Editor(small_sd(), name="small")
    return editor.attention(PROMPT, target=TARGET, words=["red", "cat", "a"], steps=2)


def titles(figure):
    """Titles of the panels that are shown, row by row."""
    found = {}
    for place in figure.axes:
        if place.axison:
            row = place.get_subplotspec().rowspan.start
            found.setdefault(row, []).append(place.get_title())
    return list(found.values())


def labels(figure):
    return [place.get_ylabel() for place in figure.axes if place.get_ylabel()]


def heat(place):
    """The values of the map in a panel, which lies on top."""
    return np.asarray(place.get_images()[-1].get_array())


def test_overlays(maps):
    figure = pictures.overlays(maps)
    assert titles(figure) == [[PROMPT, "red", "dog", "<end>"]]
    assert labels(figure) == ["generated"]
    np.testing.assert_array_equal(heat(figure.axes[1]), maps.of("red"))
    assert "layers 1-7, 8 steps" in figure.get_supxlabel()


def test_overlays_of_an_edit_stand_side_by_side(edit):
    figure = pictures.overlays(edit)
    assert titles(figure) == [[PROMPT, "red", "a"], [TARGET, "cat", "a"]]
    assert labels(figure) == ["source", "target"]
    np.testing.assert_array_equal(heat(figure.axes[4]), edit.targets[0].of("cat"))
    assert titles(pictures.overlays(edit, words=["cat"])) == [[PROMPT], [TARGET, "cat"]]


def test_by_layer(maps):
    figure = pictures.by_layer(maps, words=["dog", "red"], sites="cross:2,4")
    columns = ["generated", "layer 2 (down.1.0)", "layer 4 (up.0.0)"]
    assert titles(figure) == [columns, columns]
    assert labels(figure) == ["dog", "red"]
    np.testing.assert_array_equal(heat(figure.axes[2]), maps.of("dog", sites="cross:4"))


def test_layers_by_steps_share_a_scale(maps):
    figure = pictures.layers_by_steps(maps, "dog", sites="cross:1,3", columns=3)
    assert titles(figure) == [["step 0", "step 4", "step 7"]] * 2
    assert labels(figure) == ["layer 1\ndown.0.0", "layer 3\nmid.0"]
    row = figure.axes[3:6]
    assert len({place.get_images()[-1].get_clim() for place in row}) == 1
    np.testing.assert_array_equal(heat(row[2]), maps.of("dog", sites="cross:3", step=7))


def test_components(maps):
    figure = pictures.components(maps, 3)
    ((first, *rest),) = titles(figure)
    shares = maps.components(3).shares
    assert first == PROMPT
    assert rest == [f"component {i + 1}: {share:.0%}" for i, share in enumerate(shares)]
    low, high = figure.axes[1].get_images()[-1].get_clim()
    assert low == -high  # white is zero
    assert "layers 1, 6-7, 8x12" in figure.get_supxlabel()


def test_a_point(maps):
    figure = pictures.point(maps, 20, 3)
    assert titles(figure) == [[PROMPT, "where it looks", "who looks at it"]]
    assert figure.get_suptitle() == "Self-attention at pixel (20, 3)"
    np.testing.assert_array_equal(heat(figure.axes[1]), maps.looks_at(20, 3))
    np.testing.assert_array_equal(heat(figure.axes[2]), maps.seen_by(20, 3))
    for place in figure.axes:
        assert place.lines[0].get_xydata().tolist() == [[20.5 / 24, 3.5 / 16]]


def test_a_point_outside_the_picture(maps):
    with pytest.raises(ConfigError, match=r"24x16 pixels.*got \(24, 3\)"):
        pictures.point(maps, 24, 3)


def test_clusters(maps):
    figure = pictures.clusters(maps, 3)
    assert titles(figure) == [[PROMPT, "over the picture", "3 clusters"]]
    np.testing.assert_array_equal(heat(figure.axes[2]), maps.clusters(3))
    with pytest.raises(ConfigError, match="2 to 8 clusters"):
        pictures.clusters(maps, 9)
    assert len(set(OKABE_ITO)) == 8


def test_a_film_has_a_frame_a_step(maps, edit, tmp_path):
    with Image.open(pictures.film(maps, tmp_path / "film.gif", words=["red"])) as film:
        assert film.n_frames == 8
        first = film.convert("RGB").tobytes()
        film.seek(7)
        assert film.convert("RGB").tobytes() != first
    with pytest.raises(ConfigError, match="by_step=True"):
        pictures.film(edit, tmp_path / "none.gif")
    with pytest.raises(ConfigError, match=r"\.gif"):
        pictures.film(maps, tmp_path / "film.png")


def test_pictures_keep_their_aspect(maps):
    figure = pictures.overlays(maps)
    figure.canvas.draw()
    box = figure.axes[1].get_window_extent()
    assert box.width / box.height == pytest.approx(24 / 16, rel=0.02)


def test_the_same_maps_give_the_same_bytes(maps, tmp_path):
    files = [save_figure(pictures.overlays(maps), tmp_path / f"{i}.png") for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert to_image(pictures.overlays(maps)).mode == "RGB"
    with pytest.raises(ConfigError, match=r"\.png"):
        save_figure(pictures.overlays(maps), tmp_path / "x.jpg")


def test_nothing_global_is_touched(maps):
    before = set(sys.modules)
    to_image(pictures.overlays(maps))
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r'pip install "freeprompt\[viz\]"'):
        need_matplotlib()


def test_maps_of_the_other_kind_are_asked_for(maps, edit):
    editor = fp.Editor(small_sd(), name="small")
    own = editor.attention(PROMPT, sites="self:mid", steps=1)
    with pytest.raises(ConfigError, match="No cross-attention maps"):
        pictures.overlays(own)
    cross = editor.attention(PROMPT, sites="cross:mid", steps=1)
    with pytest.raises(ConfigError, match="No self-attention maps"):
        pictures.clusters(cross)
    with pytest.raises(ConfigError, match="by_step=True"):
        pictures.layers_by_steps(cross, "dog")
