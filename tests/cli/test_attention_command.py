"""`freeprompt attention` and `freeprompt map-vs-values`: from words to pictures and files."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from tests.api.samples import photo, small_sd

import freeprompt as fp
from freeprompt.analysis import AttentionMaps

PROMPT = "a red dog in the park"
LOOK = ("attention", PROMPT, "--model", "small", "--steps", 2)


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def size(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_words_and_layers(freeprompt, here) -> None:
    end = freeprompt(*LOOK, "--words", "red,dog", "--layers", "1,3-4", "-o", "a/maps.png")
    assert (end.code, end.err) == (0, "")
    assert end.out.splitlines() == [
        f"generated {PROMPT!r}: red, dog at 3 layers",
        f"{(8 * 8 + 4 * 4 + 4 * 4) * 2 * 4 / 1024:.1f} KiB of maps",
        "  a/maps.png",
    ]
    assert files_in(here) == {"a/maps.png"}


def test_every_word_by_default(freeprompt) -> None:
    end = freeprompt(*LOOK)
    assert end.out.startswith(f"generated {PROMPT!r}: a, red, dog, in, the, park at 7 layers\n")
    assert size("maps.png")[0] > 7 * 150


def test_what_is_saved_is_what_the_library_gives(freeprompt) -> None:
    freeprompt(*LOOK, "--words", "red", "--layers", 3, "--save", "m.safetensors", "--seed", 5)
    maps = fp.Editor(small_sd(), name="small").attention(
        PROMPT, words=["red"], sites="cross:3", steps=2, seed=5
    )
    assert np.array_equal(AttentionMaps.load("m.safetensors").numpy(), maps.numpy())


@pytest.mark.parametrize("view", ["components", "components=2", "clusters=3", "point=3,15"])
def test_self_attention(freeprompt, here, view) -> None:
    end = freeprompt(*LOOK, "--self", view)
    assert (end.code, end.err) == (0, "")
    assert end.out.startswith(f"generated {PROMPT!r}: self-attention at 3 layers\n")
    assert files_in(here) == {"maps.png"}


def test_self_attention_at_chosen_layers(freeprompt) -> None:
    end = freeprompt(*LOOK, "--self", "components=1", "--layers", 2, "--words", "dog")
    assert end.out.startswith(f"generated {PROMPT!r}: dog at 1 layer; self-attention at 1 layer\n")


def test_grid_film_and_npz(freeprompt, here) -> None:
    end = freeprompt(
        *LOOK, "--words", "dog", "--layers", 3, "--grid", "--film", "f.gif", "--save", "m.npz"
    )
    assert (end.code, end.err) == (0, "")
    assert files_in(here) == {"maps.png", "f.gif", "m.npz"}
    with Image.open("f.gif") as film:
        assert film.n_frames == 2
    assert AttentionMaps.load("m.npz").cross.by_step


def test_a_real_image_and_a_point_in_its_own_pixels(freeprompt) -> None:
    photo(40, 24).save("photo.png")
    end = freeprompt(*LOOK, "--image", "photo.png", "--self", "point=39,23", "--json")
    assert (end.code, end.err) == (0, "")
    told = json.loads(end.out)
    assert told["pictures"][0]["role"] == "real"
    assert told["settings"]["image"] == "photo.png"
    assert told["files"] == ["maps.png"]
    end = freeprompt(*LOOK, "--image", "photo.png", "--self", "point=40,23")
    assert end.code == 2 and "outside the picture of 40x24 pixels" in end.err


def test_an_edit_is_watched(freeprompt) -> None:
    watch = ("--target", "a blue cat", "--target", "a green car", "--set", "share=0.5")
    end = freeprompt(*LOOK, *watch, "--words", "red,cat,a")
    assert end.out.splitlines()[:3] == [
        f"source {PROMPT!r}: red, a at 7 layers",
        "target 'a blue cat': cat, a at 7 layers",
        "target 'a green car': a at 7 layers",
    ]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--words", "red,cat"), 2, "Available: <end>, <pad>, <start>, a, dog, in, park, red, the"),
        (("--words", " , "), 2, "names no word"),
        (("--layers", 8), 1, "It has cross:1-7"),
        (("--layers", "2-9"), 2, "asks for layer 9"),
        (("--layers", "3;4"), 2, "Cannot read '3;4'"),
        (("--self", "map"), 2, "--self takes components"),
        (("--self", "point=3"), 2, "--self takes components"),
        (("--self", "components=x"), 2, "--self takes components"),
        (("--self", "clusters=9"), 2, "2 to 8 clusters"),
        (("--self", "components=0"), 2, "1 to 64 components"),
        (("--self", "point=16,0"), 2, "outside the picture of 16x16 pixels"),
        (("--grid",), 2, "give --words with one"),
        (("--grid", "--words", "a,red"), 2, "give --words with one"),
        (("--self", "clusters", "--film", "f.gif"), 2, "--film shows words"),
        (("-o", "maps.jpg"), 2, "written as .png"),
        (("--film", "f.mp4"), 2, "written as .gif"),
        (("--save", "m.pt"), 2, ".safetensors or .npz"),
        (("--half", "both"), 2, "half must be cond or uncond"),
        (("--set", "share=0.5"), 2, "would have no effect"),
        (("--method", "p2p"), 2, "acts with --target"),
        (("--target", "a cat", "--inversion", "ddim"), 2, "acts with --image"),
        (("--set", "shar=0.5"), 2, "did you mean 'share'"),
        (("--target", "a cat", "--method", "sdedit"), 2, "runs a loop of its own"),
        (("--image", "none.png"), 2, "none.png"),
        (("--width", 68, "--height", 68, "--self", "components", "--layers", 1), 2, "34x34"),
        (("--steps", 0), 2, "number of steps"),
        (("--seed", -1), 2, "seed must be"),
    ],
)
def test_wrong_usage_ends_with_a_paragraph_and_nothing_written(freeprompt, here, words, code, says):
    end = freeprompt(*LOOK, *words)
    assert end.code == code
    assert says in end.err and "Traceback" not in end.err
    assert end.out == "" and files_in(here) == set()


@pytest.mark.parametrize("words", [("-o", "i.png"), ("-o", "m.png", "--save", "i.png/m.npz")])
def test_the_image_is_not_written_over(freeprompt, here, words) -> None:
    photo().save("i.png")
    before = (here / "i.png").read_bytes()
    end = freeprompt("attention", PROMPT, "--image", "i.png", "--model", "no/such", *words)
    assert end.code in (1, 2) and "i.png" in end.err and "no/such" not in end.err
    assert (here / "i.png").read_bytes() == before and files_in(here) == {"i.png"}


def test_a_place_that_cannot_be_written_to_is_found_before_any_work(freeprompt, here) -> None:
    (here / "file").write_text("mine")
    (here / "f.gif").mkdir()
    for words, says in (
        (("-o", "file/maps.png"), "'file/maps.png' could not be written"),
        (("--film", "file/f.gif"), "'file/f.gif' could not be written"),
        (("--film", "f.gif"), "--film 'f.gif' is a folder"),
        (("--layers", ""), "Cannot read"),
    ):
        end = freeprompt("attention", PROMPT, "--model", "no/such", *words)
        assert end.code in (1, 2) and says in end.err
    assert files_in(here) == {"file"}


def test_an_empty_prompt(freeprompt) -> None:
    end = freeprompt("attention", " ", "--model", "small")
    assert end.code == 2 and "must say something" in end.err


def test_without_matplotlib_the_extra_is_named_before_any_work(freeprompt, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for words in (LOOK, ("map-vs-values", "--model", "small")):
        end = freeprompt(*words)
        assert end.code == 1 and 'pip install "freeprompt[viz]"' in end.err


def test_map_vs_values(freeprompt, here) -> None:
    words = ("map-vs-values", "--model", "small", "--pairs", 2, "--steps", 2, "--shown", 1)
    end = freeprompt(*words, "-o", "r/picture.png")
    assert (end.code, end.err) == (0, "")
    assert "2 pairs" in end.out and "its keys and values" in end.out
    assert files_in(here) == {"r/picture.png", "r/picture.json"}
    told = json.loads(freeprompt(*words, "-o", "r/picture.png", "--json").out)
    assert told["pairs"] == 2 and told["setting"]["steps"] == 2
    for wrong, says in (
        (("--half", "x"), "--half must be"),
        (("--share", 2), "from 0 to 1"),
        (("--sites", "self"), "Cannot read"),
        (("--sites", "cross:all"), "are self-attention here"),
        (("-o", "r.jpg"), "written as .png"),
    ):
        end = freeprompt(*words, *wrong)
        assert end.code == 2 and says in end.err
