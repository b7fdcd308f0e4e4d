"""A scene of Emoji World: the whole truth about a picture, its caption and its ideal edits."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from freeprompt.errors import ConfigError, unknown
from freeprompt.world.caption import canonical
from freeprompt.world.colors import COLORS
from freeprompt.world.render import render_scene
from freeprompt.world.sprites import design_like, designs
from freeprompt.world.vocab import ANIMALS, PLACES, STYLES, SUBJECTS


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One subject somewhere in some style. Equal scenes render to equal bytes.

    A later scene with two subjects is a second type with the same methods; nothing here assumes
    that a caption names one thing only.

    Attributes:
        subject: What is shown, one of `SUBJECTS`.
        color: One of `COLORS` for an object, or None for the sprite's own colours. Animals
            keep their own colours.
        place: One of `PLACES`, or None for a plain light background.
        style: One of `STYLES`, or None for any design, as it is.
        design: Which sprite of the subject, 0 .. n-1. A style draws the nearest design that it
            allows: a photo the 3D set, a drawing one of the flat sets.
        x, y: Centre of the square in which the subject stands, as fractions of the frame from the
            top left corner. The subject is centred across it and stands on its lower side.
        scale: Side of that square, and the longer side of the subject, as a fraction, in (0, 1].
        flip: False faces left, True faces right, whatever the design.
        seed: Drives the background's jitter and nothing else, 0 or more.

    Raises:
        ConfigError: for a value that is not allowed; the message lists what is.
    """

    subject: str
    color: str | None = None
    place: str | None = None
    style: str | None = None
    design: int = 0
    x: float = 0.5
    y: float = 0.6
    scale: float = 0.6
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_name("subject", self.subject, SUBJECTS)
        _check_name("color", self.color, COLORS, optional=True)
        _check_name("place", self.place, PLACES, optional=True)
        _check_name("style", self.style, STYLES, optional=True)
        if self.color is not None and self.subject in ANIMALS:
            raise ConfigError(
                f"A {self.subject} cannot be {self.color}: animals keep their own colours. "
                "Leave the colour out, or name an object."
            )
        _check_layout(self)

    def caption(self) -> str:
        """The canonical prompt, e.g. "a photo of a red car on the street"."""
        return canonical(self)

    def render(self, size: int = 128) -> "Rendered":
        """Draw the scene.

        Args:
            size: Height and width in pixels, 16 .. 2048.

        Returns:
            The picture with its mask.

        Raises:
            ConfigError: if `size` is out of range.
        """
        if not 16 <= size <= 2048:
            raise ConfigError(f"Cannot render at {size} pixels: the size must be 16 .. 2048.")
        image, mask = render_scene(self, size)
        return Rendered(image, mask, self)

    def edited(self, **changes: Any) -> "Scene":
        """The ideal edit: the same scene with some attributes changed.

        A new subject keeps its place in the frame, its facing and, if it has one, the emoji set;
        a colour is dropped when the new subject is an animal and no colour is asked for.

        Args:
            **changes: New values by attribute name.

        Returns:
            The edited scene; an edit that is undone gives the scene back, but for a dropped colour
            and a set that the other subject lacks.

        Raises:
            ConfigError: for an unknown attribute or a value that is not allowed.
        """
        for name in changes:
            _check_name("scene attribute", name, [field.name for field in fields(self)])
        subject = changes.get("subject", self.subject)
        if subject != self.subject and subject in SUBJECTS:
            used = designs()[self.subject][self.design].set
            changes = {"design": design_like(used, subject), **changes}
            if subject in ANIMALS:
                changes = {"color": None, **changes}
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a scene from what `to_dict` gave.

        Raises:
            ConfigError: for a missing subject, an unknown attribute or a value not allowed.
        """
        for name in values:
            _check_name("scene attribute", name, [field.name for field in fields(cls)])
        if "subject" not in values:
            raise ConfigError("A scene needs a subject, and there is none.")
        return cls(**values)


@dataclass(frozen=True)
class Rendered:
    """A picture and its truth.

    Attributes:
        image: RGB, uint8, (height, width, 3).
        mask: Bool, (height, width): every pixel that the subject touches.
        scene: What was rendered.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    scene: Scene

    @property
    def caption(self) -> str:
        """The scene's canonical prompt."""
        return self.scene.caption()


def _check_name(noun: str, given: Any, known: Any, *, optional: bool = False) -> None:
    """Raise unless `given` is one of the names (or None where that is allowed)."""
    if not (given in known or (optional and given is None)):
        raise unknown(ConfigError, noun, str(given), known)


def _check_layout(scene: Scene) -> None:
    """Raise unless the numbers of a scene are usable."""
    count = len(designs()[scene.subject])
    if not 0 <= scene.design < count:
        raise ConfigError(
            f"The {scene.subject} has no design {scene.design}: it has 0 .. {count - 1}."
        )
    for name, value in (("x", scene.x), ("y", scene.y)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}: it is a fraction of the frame, 0 .. 1.")
    if not 0 < scene.scale <= 1:
        raise ConfigError(f"scale is {scene.scale}: it must be above 0 and at most 1.")
    if scene.seed < 0:
        raise ConfigError(f"seed is {scene.seed}: it must be 0 or more.")
