"""What can be refused before any work is done, and what is worth a warning after it."""

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

from freeprompt.api.source import InvertedImage
from freeprompt.core import Model, Record, Sites, Tape
from freeprompt.core.params import Parameters, check_names
from freeprompt.core.registry import Registry
from freeprompt.core.tape import TapeKey
from freeprompt.errors import ConfigError, FreepromptWarning, UnsupportedModel
from freeprompt.inversion import INVERSIONS, Inversion
from freeprompt.methods import METHODS, Method, Outcome, Task, TwoBranch
from freeprompt.models import UNetModel


def checked_prompts(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Return the target prompts as a tuple.

    Raises:
        ConfigError: if there is none, or one that says nothing.
    """
    several = isinstance(targets, Sequence) and not isinstance(targets, str)
    prompts: tuple[Any, ...] = tuple(targets) if several else (targets,)
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigError(f"A target prompt must say something; got {prompt!r}.")
    if not prompts:
        raise ConfigError("There is no target prompt. Give at least one.")
    return prompts


def integer(value: Any) -> int | None:
    """Return a whole number of any integer type as an int, and None for anything else."""
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def whole(name: str, value: Any) -> int:
    """Return a whole number of any integer type as an int.

    Raises:
        ConfigError: for anything else.
    """
    number = integer(value)
    if number is None:
        raise ConfigError(f"{name} must be a whole number; got {value!r}.")
    return number


def checked_guidance(guidance: Any) -> float:
    """Return a usable guidance scale.

    Raises:
        ConfigError: if it is not a finite number of at least 0.
    """
    number = isinstance(guidance, Real) and not isinstance(guidance, bool)
    if not number or not math.isfinite(guidance) or guidance < 0:
        raise ConfigError(f"guidance must be a number of at least 0; got {guidance!r}.")
    return float(guidance)


def check_source(source: Any, image: Any, negative: Any, *for_generated: Any) -> None:
    """Check that there is one source, and that nothing contradicts it.

    Raises:
        ConfigError: if there is none, or noise or a size is given for a real image.
    """
    if not isinstance(negative, str):
        raise ConfigError(f"negative must be text; got {negative!r}. Empty is the default.")
    if source is None and image is None:
        raise ConfigError(
            "There is nothing to edit. Give source= (the prompt of a generated image) or image= "
            "(a real one)."
        )
    if source is not None and not isinstance(source, str):
        raise ConfigError(f"source must be a prompt; got {source!r}. Real images go into image=.")
    if image is not None and any(value is not None for value in for_generated):
        raise ConfigError(
            "generator, latents, width and height belong to generated images; a real image brings "
            "its own noise and size. Leave them out."
        )


def check_generated(image: Any, native: bool, generator: Any, latents: Any) -> None:
    """Check that nothing is said of a generated image that would go unheard.

    Raises:
        ConfigError: naming it.
    """
    if image is None and native:
        raise ConfigError(
            "native concerns real images: a generated one is always at the model's own size. "
            "Leave it out."
        )
    if generator is not None and latents is not None:
        raise ConfigError(
            "generator draws the noise, and latents is the noise: only one of them can be. Leave "
            "one out."
        )


def resolve(
    method: str | Method, inversion: str | Inversion | None, parameters: Mapping[str, Any]
) -> tuple[Method, Inversion]:
    """Turn names and loose parameters into instances; each parameter goes to its owner.

    Without an inversion it is the method's own.

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """
    method_class: type[Method] = _class(METHODS, method)
    settings: Mapping[str, Any] = {}
    if inversion is None or inversion == method_class.inversion:
        inversion, settings = method_class.inversion, method_class.inversion_settings
    inversion_class = _class(INVERSIONS, inversion)
    check_names(parameters, [method_class, inversion_class])
    via = _build(inversion_class, inversion, {**settings, **parameters})
    return _build(method_class, method, parameters), via


def _class(registry: Registry[Any], given: Any) -> type[Any]:
    # by its name, so that an unregistered class is refused before it has done any work
    return registry[registry.name_of(given) if isinstance(given, Parameters) else given]


def _build(owner: type[Any], given: Any, parameters: Mapping[str, Any]) -> Any:
    mine = {name: value for name, value in parameters.items() if name in owner.specs()}
    base = given.to_dict() if isinstance(given, Parameters) else {}
    return owner.build({**base, **mine})


def check_sites(method: Method, model: Model) -> None:
    """Check that every selection of a method exists in the model, before any work is done.

    Raises:
        ControlNeverFired: if one selects nothing.
        BadSiteExpression: if one reaches beyond the model's layers.
    """
    for name in method.specs():
        value = getattr(method, name)
        if isinstance(value, Sites):
            value.select(model.sites, model.name)


def check_model(method: Method, model: UNetModel) -> None:
    """Check that a model takes what a method gives it.

    Raises:
        UnsupportedModel: if it takes more, or less.
    """
    name = METHODS.name_of(method)
    if model.takes == "picture" and not method.instructs:
        able = ", ".join(name for name in METHODS if METHODS[name].instructs)
        raise UnsupportedModel(
            f"{model.name!r} is an InstructPix2Pix model: its denoiser takes the picture in 4 more "
            f"input channels and the prompt as an instruction, and {name} edits with text-to-image "
            f"models. Use method={able!r}, or the text-to-image model it was made from."
        )
    if method.instructs and model.takes != "picture":
        raise UnsupportedModel(
            f"{name} needs a model that was trained to follow instructions, whose denoiser takes 8 "
            f"input channels (InstructPix2Pix); that of {model.name!r} takes "
            f"{model.pipe.unet.config.in_channels}. Any other method edits with it."
        )


def check_keep(method: Method, keep: Any) -> None:
    """Check that there is something to keep, and a place for it.

    Raises:
        ConfigError: if the method learns nothing, or the place is no folder.
    """
    if keep is None:
        return
    if not method.trains:
        able = ", ".join(name for name in METHODS if METHODS[name].trains)
        raise ConfigError(
            f"{METHODS.name_of(method)} learns nothing that could be kept. Leave keep (--keep) "
            f"out; it is for {able}."
        )
    if not isinstance(keep, str | Path) or Path(keep).is_file():
        raise ConfigError(f"keep must name a folder, which is made if missing; got {keep!r}.")


def check_own(image: InvertedImage, model: UNetModel) -> None:
    """Check that an image was inverted with a model.

    Raises:
        ConfigError: if it was another one.
    """
    if image.model.pipe.unet is not model.pipe.unet or image.model.pipe.vae is not model.pipe.vae:
        raise ConfigError(
            f"This image was inverted with another model ({image.model.name!r}); its noise means "
            "nothing to this one. Invert it again."
        )


def check_reuse(
    image: InvertedImage,
    model: UNetModel,
    source: str | None,
    method: Method,
    inversion: Inversion | None,
    steps: int,
    *,
    guidance: float,
    negative: str,
    seed: int,
) -> None:
    """Check that an inversion made earlier fits the edit at hand.

    Args:
        image: The inverted image.
        model: The model that will edit.
        source: Source prompt of the edit, if one was given.
        method: The method.
        inversion: What the edit asks for, or None if it does not ask.
        steps: Steps of the edit.
        guidance: Its guidance scale.
        negative: Its negative prompt.
        seed: Its seed.

    Raises:
        ConfigError: saying what differs.
    """
    if image.control != model.told:
        raise ConfigError(
            "This image was inverted with other control images (or weights, or windows) than the "
            "edit has, so its noise would lead elsewhere. Use the same, or invert again."
        )
    check_own(image, model)
    if method.inverts and not image.inverted:
        raise ConfigError(
            "This image was prepared for a method that does without inversion, and this one needs "
            "it. Give the image itself, or invert() it for this method."
        )
    if method.inverts and image.trajectory.steps != steps:
        raise ConfigError(
            f"This image was inverted with {image.trajectory.steps} steps, but the edit has "
            f"{steps}. Use the same number, or invert again."
        )
    if source is not None and source != image.trajectory.prompt:
        raise ConfigError(
            f"This image was inverted with the source prompt {image.trajectory.prompt!r}, but the "
            f"edit says {source!r}. Leave source out, or invert again."
        )
    if inversion is not None and method.inverts and inversion != image.inversion:
        raise ConfigError(
            f"This image was inverted with {image.inversion!r}, but the edit asks for "
            f"{inversion!r}. Leave the inversion's parameters (such as iterations) out, or invert "
            "again."
        )
    if method.inverts and image.inversion is not None:
        _check_tuned(image, guidance, negative, seed)
    for record in method.while_inverting(Tape(), steps):
        steps_to_come = range(image.trajectory.first, steps)
        if isinstance(record, Record) and not _recorded(image.tape, record, model, steps_to_come):
            raise ConfigError(
                "This method wants to record during the inversion, but the tape of this image "
                "lacks some of what it needs. Invert again with the same method and parameters."
            )


def _check_tuned(image: InvertedImage, guidance: float, negative: str, seed: int) -> None:
    """Check what some inversions were made for beside the image itself."""
    path = image.trajectory
    made: list[tuple[str, Any, Any]] = [("seed", path.provenance.get("seed", seed), seed)]
    if image.inversion is not None and image.inversion.tuned:
        made += [("guidance", path.guidance, guidance), ("negative", path.negative, negative)]
    for name, then, now in made:
        if then != now:
            raise ConfigError(
                f"This image was inverted with {image.inversion!r} for {name}={then!r}, but the "
                f"edit has {name}={now!r}, and what was found holds for the former only. Use the "
                f"same {name}, or invert again."
            )


def _recorded(tape: Tape | None, record: Record, model: Model, steps: range) -> bool:
    wanted = (
        TapeKey(step, site.name, name)
        for site in record.sites.select(model.sites, model.name)
        for step in steps
        for name in record.names
        if step in record.window
    )
    return tape is not None and all(key in tape.tensors for key in wanted)


def _without_acting(method: Method, task: Task) -> str:
    """Say what a method makes in which nothing acts."""
    if not isinstance(method, TwoBranch):
        return "the source itself"
    noisy = task.trajectory is not None and task.trajectory.noises is not None
    return "held by the inversion's noises alone" if noisy else "plain generations"


def notes_on(method: Method, task: Task, outcome: Outcome) -> tuple[str, ...]:
    """Say what the user should know of an edit that may not be one, and warn of it."""
    notes = []
    if task.source.strip().casefold() in {t.strip().casefold() for t in task.targets}:
        notes.append(f"The target prompt {task.source!r} is the source prompt: nothing to edit.")
    if not outcome.acted:
        made = _without_acting(method, task)
        notes.append(
            f"The method's window or selection is empty, so the targets are {made}: nothing was "
            "edited."
        )
    for note in notes:
        warnings.warn(note, FreepromptWarning, stacklevel=4)
    return tuple(notes)
