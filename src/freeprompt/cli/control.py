"""Control images on the command line, and again from what a picture carries."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.errors import ConfigError, FreepromptWarning

if TYPE_CHECKING:
    from freeprompt.api import Provenance

Control = Annotated[
    list[str] | None,
    typer.Option("--control", help="Control image for --controlnet or --adapter; repeatable."),
]
ControlWeight = Annotated[
    list[float] | None, typer.Option(help="How much it counts; repeatable.  [default: 1]")
]
ControlWindow = Annotated[
    list[str] | None,
    typer.Option(help="Share of the steps in which it acts, FROM:TO.  [default: 0:1]"),
]


def control_given(
    images: list[str] | None, weights: list[float] | None, windows: list[str] | None
) -> dict[str, Any]:
    """Return what `Editor.edit` is told of control images.

    Raises:
        ConfigError: for a window that is no share.
    """
    given: dict[str, Any] = {"control_image": images, "control_weight": weights}
    given["control_window"] = [_window(text) for text in windows] if windows else None
    one = {name: values[0] for name, values in given.items() if values and len(values) == 1}
    return {name: one.get(name, values) for name, values in given.items() if values}


def _window(text: str) -> tuple[float, float]:
    try:
        start, end = (float(edge) for edge in text.split(":"))
    except ValueError:
        raise ConfigError(f"--control-window takes FROM:TO, such as 0:0.5; got {text!r}.") from None
    return start, end


def control_again(
    recipe: "Provenance", images: Any, find: Callable[[str, str | None, str, str | None], str]
) -> dict[str, Any]:
    """Return what `Editor.edit` was told of control images.

    Args:
        recipe: What the picture carries.
        images: Where the control images are now, if they were given.
        find: Finds a file by what it is, its recorded name, its hash and the name given now.

    Raises:
        ConfigError: if there are more or fewer images than then, or a file is not the same.
    """
    if not recipe.control:
        if images is not None:
            raise ConfigError("The picture was made without a control image. Leave --control out.")
        return {}
    given = [images] if isinstance(images, str) else images or [None] * len(recipe.control)
    if len(given) != len(recipe.control):
        raise ConfigError(
            f"The picture was made with {len(recipe.control)} control images, and {len(given)} are "
            "given. Give all with --control, in that order, or none if they are where they were."
        )
    return {
        "control_image": [
            find("control", one["image"], one["sha256"], name)
            for one, name in zip(recipe.control, given, strict=True)
        ],
        "control_weight": [one["weight"] for one in recipe.control],
        "control_window": [tuple(one["window"]) for one in recipe.control],
    }


def networks_again(recipe: "Provenance") -> dict[str, list[str]]:
    """Return the networks to load, by the option of loading."""
    kinds: dict[str, list[str]] = {}
    for one in recipe.control:
        kinds.setdefault(one["kind"], []).append(one["network"])
    return kinds


def warn_of_networks(then: "Provenance", now: "Provenance") -> None:
    """Warn if the networks that read the control images have other weights now."""
    for before, after in zip(then.control, now.control, strict=True):
        if before["fingerprint"] != after["fingerprint"]:
            name = Path(before["network"]).name
            warnings.warn(
                f"The weights of {name!r} differ ({before['fingerprint']} then, "
                f"{after['fingerprint']} now), so the picture may differ too.",
                FreepromptWarning,
                stacklevel=2,
            )
