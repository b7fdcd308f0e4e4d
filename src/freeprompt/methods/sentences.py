"""Sentences about a thing, for directions between two of them in a text encoder's space."""

OPENINGS = (
    "a {}",
    "a photo of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "a painting of a {}",
    "a sketch of a {}",
    "a small {}",
    "a large {}",
    "one {}",
    "the {}",
    "a close view of a {}",
    "a {} seen from afar",
)
ENDINGS = (
    "",
    " in the park",
    " on the beach",
    " in the snow",
    " at night",
    " in the desert",
    " on the street",
    " in the morning",
    " under a tree",
    " by the water",
    " in front of a house",
    " on the grass",
    " on a sunny day",
)


def sentences_about(thing: str, count: int) -> list[str]:
    """Return `count` different sentences about a thing, varied in opening and place.

    The same count gives the same frames for every thing, so that in the difference of two means
    everything but the things cancels out.

    Args:
        thing: A word or phrase, such as `dog` or `red car`.
        count: At least 1; at most `len(OPENINGS) * len(ENDINGS)` are different.
    """
    frames = [opening + ending for ending in ENDINGS for opening in OPENINGS]
    # a stride that shares no factor with their number visits all frames in a mixed order
    return [frames[i * 37 % len(frames)].format(thing) for i in range(count)]
