"""Captions of scenes: the canonical prompt, and the paraphrases a model is trained on."""

from typing import TYPE_CHECKING

import numpy as np

from freeprompt.world.vocab import ANIMALS, DRAWING, PHOTO

if TYPE_CHECKING:
    from freeprompt.world.scene import Scene

# Any sprite may stand without style words, so these two may stay unsaid; the others may not.
_UNSAID_STYLES = frozenset({PHOTO, DRAWING})
_DROP_STYLE, _DROP_PLACE, _DROP_STANDING, _PERIOD, _BAD_ARTICLE = 0.15, 0.1, 0.3, 0.1, 0.02


def article(word: str) -> str:
    """The indefinite article before a word: "an" before a vowel."""
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(subject: str, color: str | None) -> str:
    """Name the thing with its article, as in "an orange car"."""
    words = subject if color is None else f"{color} {subject}"
    return f"{article(words)} {words}"


def place_phrase(subject: str, place: str) -> str:
    """Say where: animals stand, as in "standing in the park"."""
    return f"standing {place}" if subject in ANIMALS else place


def canonical(scene: "Scene") -> str:
    """The one caption that says everything the grammar can say about the scene."""
    parts = [scene.style, noun_phrase(scene.subject, scene.color)]
    if scene.place is not None:
        parts.append(place_phrase(scene.subject, scene.place))
    return " ".join(part for part in parts if part is not None)


def captions(scene: "Scene", rng: np.random.Generator) -> str:
    """Draw a paraphrase of the scene's caption, for training.

    The colour is always said. Unsaid now and then: a photo or drawing's style (15 %), the place
    (10 %), "standing" (30 %). Rarely there is a final period (10 %) or "a" for "an" (2 %).

    Args:
        scene: Any scene.
        rng: Source of chance; five numbers are drawn, whatever the scene.

    Returns:
        Lower-case text of the grammar that `parse_scene` reads.
    """
    chance = rng.random(5)
    style, place = scene.style, scene.place
    if style in _UNSAID_STYLES and chance[0] < _DROP_STYLE:
        style = None
    if chance[1] < _DROP_PLACE:
        place = None
    text = noun_phrase(scene.subject, scene.color)
    if chance[4] < _BAD_ARTICLE:
        text = "a " + text.split(" ", 1)[1]
    if place is not None:
        standing = chance[2] >= _DROP_STANDING
        text += " " + (place_phrase(scene.subject, place) if standing else place)
    if style is not None:
        text = f"{style} {text}"
    return text + "." if chance[3] < _PERIOD else text
