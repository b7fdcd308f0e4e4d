"""What a scene can show: the lists that the grammar, the renderer and the benchmark share."""

from typing import Final

PAPER_ANIMALS: Final = (
    "dog", "giraffe", "horse", "lion", "rabbit", "sheep", "cat", "monkey", "leopard", "tiger",
)  # fmt: skip
"""The ten animals of the paper's probe prompts."""

ANIMALS: tuple[str, ...] = (
    *PAPER_ANIMALS,
    "cow", "pig", "elephant", "camel", "duck", "turtle", "deer", "goat", "rooster", "mouse",
    "zebra", "kangaroo", "penguin", "flamingo",
)  # fmt: skip

OBJECTS: tuple[str, ...] = (
    "car", "bus", "truck", "bicycle", "scooter", "tractor", "house", "umbrella", "balloon",
    "shirt", "dress", "hat", "boot", "backpack", "guitar", "bell", "teapot", "bucket", "chair",
    "flower", "book", "key", "heart", "star",
)  # fmt: skip
"""Things that take a colour."""

SUBJECTS: tuple[str, ...] = ANIMALS + OBJECTS

FLOATING: Final = frozenset({"balloon", "heart", "star"})
"""Objects that need not stand on the ground."""

PARK, BEACH, SNOW = "in the park", "on the beach", "in the snow"
NIGHT, DESERT, STREET = "at night", "in the desert", "on the street"
PLACES: tuple[str, ...] = (PARK, BEACH, SNOW, NIGHT, DESERT, STREET)

PHOTO, DRAWING = "a photo of", "a drawing of"
SKETCH, PIXEL_ART = "a sketch of", "a pixel art of"
STYLES: tuple[str, ...] = (PHOTO, DRAWING, SKETCH, PIXEL_ART)
