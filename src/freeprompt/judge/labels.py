"""What the judge can say, and what is true of a scene."""

from dataclasses import dataclass

from freeprompt.world import COLORS, OBJECTS, PLACES, STYLES, SUBJECTS, Scene
from freeprompt.world.sprites import drawn_sprite

UNKNOWN = -100
"""Label of what cannot be known; `torch.nn.functional.cross_entropy` ignores it."""

HEADS: dict[str, tuple[str | None, ...]] = {
    "subject": tuple(SUBJECTS),
    "color": (*COLORS, None),
    "place": (*PLACES, None),
    "style": tuple(STYLES),
}
"""The judge's answers by attribute, in the order of its outputs; None is "no colour", "plain"."""


def visible_style(scene: Scene) -> str:
    """Name the style that can be seen, which a scene of no style has too.

    A scene without a style is drawn with any sprite: the 3D set looks like the photo style, the
    flat sets like the drawing style.
    """
    if scene.style is not None:
        return scene.style
    photo, drawing = STYLES[0], STYLES[1]
    sprite = drawn_sprite(scene.subject, scene.design, scene.style)
    return photo if sprite.set == "3d" else drawing


@dataclass(frozen=True)
class Truth:
    """Labels of a scene as indices into `HEADS`.

    An object in its sprite's own colours has an unknown colour: many such sprites look like one
    of the named colours. Animals have the colour None.
    """

    subject: int
    color: int
    place: int
    style: int

    @classmethod
    def of(cls, scene: Scene) -> "Truth":
        """Read the labels of a scene."""
        known = scene.color is not None or scene.subject not in OBJECTS
        return cls(
            subject=HEADS["subject"].index(scene.subject),
            color=HEADS["color"].index(scene.color) if known else UNKNOWN,
            place=HEADS["place"].index(scene.place),
            style=HEADS["style"].index(visible_style(scene)),
        )

    def as_list(self) -> list[int]:
        """List the labels in the order of `HEADS`."""
        return [self.subject, self.color, self.place, self.style]
