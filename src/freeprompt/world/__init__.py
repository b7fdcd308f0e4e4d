"""Emoji World: small scenes with captions and exact truth, rendered from emoji sprites.

>>> from freeprompt.world import parse_scene
>>> scene = parse_scene("a red car on the street", seed=1)
>>> rendered = scene.render(64)
>>> rendered.image.shape, rendered.mask.shape
((64, 64, 3), (64, 64))
>>> scene.edited(color="coral").caption()
'a coral car on the street'
"""

from freeprompt.world.caption import captions
from freeprompt.world.colors import COLORS
from freeprompt.world.grammar import caption_words, parse_scene, vocabulary
from freeprompt.world.sampling import is_held_out, random_scene
from freeprompt.world.scene import Rendered, Scene
from freeprompt.world.sheet import contact_sheet
from freeprompt.world.vocab import ANIMALS, OBJECTS, PLACES, STYLES, SUBJECTS

__all__ = [
    "ANIMALS",
    "COLORS",
    "OBJECTS",
    "PLACES",
    "STYLES",
    "SUBJECTS",
    "Rendered",
    "Scene",
    "caption_words",
    "captions",
    "contact_sheet",
    "is_held_out",
    "parse_scene",
    "random_scene",
    "vocabulary",
]
