"""Reading captions, and the words they are made of.

    [style] (a|an|the) [color] subject [standing] [place] [.]

for example "a photo of an orange car on the street" or "an elephant standing in the snow".
"""

import numpy as np

from freeprompt.errors import ConfigError, unknown
from freeprompt.world.colors import COLORS
from freeprompt.world.sampling import random_layout
from freeprompt.world.scene import Scene
from freeprompt.world.vocab import ANIMALS, OBJECTS, PLACES, STYLES, SUBJECTS

ARTICLES = ("a", "an", "the")
_OTHER_WORDS = (
    "and", "at", "by", "for", "from", "has", "image", "is", "it", "its", "near", "no", "not",
    "one", "or", "picture", "scene", "some", "that", "there", "this", "to", "two", "very", "with",
)  # fmt: skip
_EXAMPLE = 'Write for example "a red car on the street" or "a dog standing in the park".'


def caption_words(caption: str) -> tuple[str, ...]:
    """Split a caption into its lower-case words; a period or a comma is a word of its own."""
    for mark in ".,":
        caption = caption.replace(mark, f" {mark} ")
    return tuple(caption.lower().split())


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can contain, and common function words; sorted, without repeats."""
    phrases = (*COLORS, *SUBJECTS, *PLACES, *STYLES, *ARTICLES, *_OTHER_WORDS, "standing", ". ,")
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def parse_scene(text: str, seed: int = 0) -> Scene:
    """Read a caption of the grammar.

    Args:
        text: For example "a photo of a red car on the street"; case, a final period and the right
            article do not matter.
        seed: Decides everything the caption leaves open: design, position, scale, facing,
            background.

    Returns:
        A scene whose caption says the same.

    Raises:
        ConfigError: for an empty text, a name that is not in the vocabulary, or a colour on an
            animal; the message lists what is allowed.
    """
    words = [word for word in caption_words(text) if word not in ".,"]
    style, words = _take_style(words)
    if words and words[0] in ARTICLES:
        words = words[1:]
    if not words:
        raise ConfigError(f"{text!r} names no subject. {_EXAMPLE}")
    color, words = _take_color(words)
    subject, words = _take_subject(words, text)
    if words and words[0] == "standing" and subject in ANIMALS:
        words = words[1:]
    place = " ".join(words) or None
    if place is not None and place not in PLACES:
        raise unknown(ConfigError, "place", place, PLACES)
    layout = random_layout(np.random.default_rng(seed), subject, style)
    return Scene(subject=subject, color=color, place=place, style=style, **layout)


def _take_style(words: list[str]) -> tuple[str | None, list[str]]:
    """Split a style off the front, if there is one."""
    for style in STYLES:
        prefix = style.split()
        if words[: len(prefix)] == prefix:
            return style, words[len(prefix) :]
    if "of" in words:
        given = " ".join(words[: words.index("of") + 1])
        raise unknown(ConfigError, "style", given, STYLES)
    return None, words


def _take_color(words: list[str]) -> tuple[str | None, list[str]]:
    """Split a colour off the front; a stranger before an object is a misspelt colour."""
    if words[0] in COLORS:
        return words[0], words[1:]
    if words[0] not in SUBJECTS and len(words) > 1 and words[1] in OBJECTS:
        raise unknown(ConfigError, "color", words[0], COLORS)
    return None, words


def _take_subject(words: list[str], text: str) -> tuple[str, list[str]]:
    """Split the subject off the front."""
    if not words:
        raise ConfigError(f"{text!r} names a colour but no object. {_EXAMPLE}")
    if words[0] not in SUBJECTS:
        raise unknown(ConfigError, "subject", words[0], SUBJECTS)
    return words[0], words[1:]
