import numpy as np
import pytest

from freeprompt.errors import ConfigError
from freeprompt.world import (
    ANIMALS,
    COLORS,
    OBJECTS,
    PLACES,
    STYLES,
    SUBJECTS,
    Scene,
    caption_words,
    captions,
    parse_scene,
    random_scene,
    vocabulary,
)


def said(scene: Scene) -> tuple[str | None, ...]:
    return scene.subject, scene.color, scene.place, scene.style


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (Scene(subject="car", color="red"), "a red car"),
        (Scene(subject="car", color="orange"), "an orange car"),
        (Scene(subject="umbrella"), "an umbrella"),
        (Scene(subject="elephant", place="in the park"), "an elephant standing in the park"),
        (
            Scene(subject="car", color="red", place="on the street", style="a photo of"),
            "a photo of a red car on the street",
        ),
        (
            Scene(subject="dog", place="at night", style="a pixel art of"),
            "a pixel art of a dog standing at night",
        ),
    ],
)
def test_captions_read_like_the_papers_prompts(scene: Scene, caption: str) -> None:
    assert scene.caption() == caption
    assert said(parse_scene(caption)) == said(scene)


def test_every_caption_is_read_back() -> None:
    for subject in SUBJECTS:
        for number, color in enumerate((None,) if subject in ANIMALS else (None, *COLORS)):
            for place in (None, *PLACES):
                style = (None, *STYLES)[number % 5]
                scene = Scene(subject=subject, color=color, place=place, style=style)
                assert said(parse_scene(scene.caption(), seed=number)) == said(scene)


def test_paraphrases_use_known_words_and_tell_no_lie() -> None:
    rng, words = np.random.default_rng(0), set(vocabulary())
    seen = set()
    for _ in range(2000):
        scene = random_scene(rng)
        text = captions(scene, rng)
        assert set(caption_words(text)) <= words
        assert set(caption_words(scene.caption())) <= words
        read = parse_scene(text)
        assert (read.subject, read.color) == (scene.subject, scene.color)
        assert read.place in (None, scene.place) and read.style in (None, scene.style)
        if scene.style in ("a sketch of", "a pixel art of"):
            assert read.style == scene.style
        seen |= {text.endswith("."), " standing " in text, read.place == scene.place}
    assert seen == {True, False}


def test_case_period_and_article_do_not_matter() -> None:
    for text in ("A orange car.", "orange car", "the orange car", "an orange car"):
        assert said(parse_scene(text)) == ("car", "orange", None, None)
    read = parse_scene("a dog in the park")
    assert said(read) == said(parse_scene("a dog standing in the park"))


def test_the_seed_decides_what_the_caption_leaves_open() -> None:
    text = "a red car on the street"
    assert parse_scene(text, seed=4) == parse_scene(text, seed=4) != parse_scene(text, seed=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no subject"),
        ("a", "names no subject"),
        ("a red", "names a colour but no object"),
        ("a unicorn", "Unknown subject 'unicorn'"),
        ("a rde car", r"Unknown color 'rde' \(did you mean 'red'"),
        ("a red dog", "animals keep their own colours"),
        ("a dog in the parc", r"Unknown place 'in the parc' \(did you mean 'in the park'"),
        ("a car standing in the park", "Unknown place 'standing in the park'"),
        ("a painting of a dog", "Unknown style 'a painting of'"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_scene(text)


def test_the_vocabulary_is_sorted_and_lower_case() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words)) and all(word == word.lower() for word in words)
    assert {"a", "an", "standing", ".", "pixel", *COLORS, *OBJECTS} <= set(words)
