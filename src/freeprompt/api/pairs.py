"""Which inversion goes with which method, and why the others do not."""

from typing import Any

from freeprompt.api.source import InvertedImage
from freeprompt.core import Tape
from freeprompt.errors import ConfigError
from freeprompt.inversion import INVERSIONS, Inversion
from freeprompt.methods import METHODS, Method, TwoBranch

WHAT = {"null": "an unconditional embedding", "noises": "noises to add at each step"}


def check_pair(
    method: Method,
    inversion: Inversion,
    image: Any,
    named: bool,
    source: str | None,
    guidance: float,
    negative: str,
) -> None:
    """Check that a method can make something of an inversion, before any work is done.

    Args:
        method: The method.
        inversion: The inversion of the edit.
        image: The real image, if the source is one; where it is inverted already, it is that
            inversion which counts.
        named: Whether the user asked for this inversion.
        source: Source prompt.
        guidance: Guidance scale of the edit.
        negative: Prompt of its unconditional rows.

    Raises:
        ConfigError: saying why the two do not go together.
    """
    if isinstance(image, InvertedImage):
        inversion, source = image.inversion or inversion, image.trajectory.prompt
    how, via = METHODS.name_of(method), INVERSIONS.name_of(inversion)
    if method.guided and guidance <= 1:
        raise ConfigError(
            f"{how} moves the picture by guidance alone, so guidance must be above 1; got "
            f"{guidance:g}. 7.5 is usual."
        )
    if method.reads_prompts and image is not None and not source:
        raise ConfigError(
            f"{how} works with the words of the source prompt, and there is none. Say in source= "
            "(--source) what the image shows; fpe does without."
        )
    if image is None and method.while_inverting(Tape(), 1):
        raise ConfigError(
            f"{how} is to record during the inversion (record), and a generated source is not "
            "inverted. Leave record at 'none'."
        )
    if not method.needs and not (method.inverts and image is not None):
        if named:
            thing = "a generated source" if method.inverts else how
            raise ConfigError(
                f"{thing} needs no inversion, so {via!r} would not be used. Leave out the "
                "inversion and its parameters."
            )
        return
    lacking = [thing for thing in method.needs if thing not in inversion.gives]
    unused = [thing for thing in inversion.gives if thing not in method.uses]
    if lacking or unused:
        raise ConfigError(_misfit(how, via, lacking, unused))
    _check_null(inversion, via, source, guidance, negative)
    if method.guided and source and getattr(inversion, "source_guidance", 0) > 0:
        raise ConfigError(
            f"{how} starts from the unconditional prediction, so noises found with the source "
            f"prompt {source!r} do not hold the image there. Set source_guidance=0."
        )
    if "noises" in inversion.gives and isinstance(method, TwoBranch) and not method.pinned:
        raise ConfigError(
            f"replay=false lets the source denoise on its own, but what {via!r} finds holds the "
            "source only step by step. Leave replay at true."
        )


def _check_null(
    inversion: Inversion, via: str, source: str | None, guidance: float, negative: str
) -> None:
    if inversion.needs_prompt and not source:
        raise ConfigError(
            f"{via} inversion works with the source prompt, and there is none. Say in source= "
            "(--source) what the image shows, or use inversion='ddim'."
        )
    if "null" in inversion.gives and guidance <= 1:
        raise ConfigError(
            f"{via} inversion finds an unconditional embedding, which guidance {guidance:g} does "
            "not use. Use guidance above 1, or inversion='ddim'."
        )
    if "null" in inversion.gives and not inversion.tuned and negative:
        raise ConfigError(
            f"{via} inversion puts the source prompt in the place of the negative prompt "
            f"{negative!r}. Leave negative out, or use another inversion."
        )


def _misfit(how: str, via: str, lacking: list[str], unused: list[str]) -> str:
    """Say why a method and an inversion do not go together, and what would."""
    if lacking:
        fit = [name for name, cls in INVERSIONS.items() if set(lacking) <= set(cls.gives)]
        return (
            f"{how} edits with {WHAT[lacking[0]]}, and {via!r} inversion finds none. Use "
            f"inversion={' or '.join(map(repr, fit))}, which is its own if you name none."
        )
    fit = [name for name, cls in METHODS.items() if set(unused) <= set(cls.uses)]
    return (
        f"{via} inversion finds {WHAT[unused[0]]}, and {how} does not denoise with that, so the "
        f"image would not come back. Use another inversion, or one of {', '.join(sorted(fit))}."
    )
