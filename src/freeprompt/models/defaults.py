"""What a model wants where the user says nothing: steps, guidance, layers."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

from freeprompt.models.catalog import CATALOG, Entry

FEW_STEPS = 4
NO_GUIDANCE = 1.0


class Known(Protocol):
    """What is asked about: a model's name and its pipeline."""

    name: str

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Settings that suit a model.

    Attributes:
        origin: Where they come from, as messages say it.
        steps: Denoising steps.
        guidance: Guidance scale; 1 and below is none.
        sites: Layers in the place of `self:below-top`, the paper's rule, for methods whose default
            that is; None where the rule itself suits the model.
    """

    origin: str
    steps: int = 50
    guidance: float = 7.5
    sites: str | None = None


def defaults_of(model: Known) -> Defaults:
    """Return what suits a loaded model: its entry's in the catalogue, or its family's.

    A model that was distilled to few steps, by itself or by a LoRA, wants few steps and no guidance
    whatever its name is.
    """
    named = defaults_by_name(model.name)
    xl = getattr(model.pipe, "text_encoder_2", None) is not None
    found = _of_family(xl) if named is None else named
    if is_distilled(model.pipe) and found.steps > 2 * FEW_STEPS:
        origin = f"{model.name}, distilled to few steps"
        found = replace(found, origin=origin, steps=FEW_STEPS, guidance=NO_GUIDANCE)
    return found


def defaults_by_name(name: str) -> Defaults | None:
    """Return what the catalogue says of a model, without loading it; None if it is not there."""
    entry = entry_of(name)
    if entry is None:
        return None
    key = next(key for key, value in CATALOG.items() if value is entry)
    return Defaults(
        origin=f"{key} in the catalogue",
        steps=entry.steps,
        guidance=entry.guidance,
        sites=entry.sites,
    )


def entry_of(name: str) -> Entry | None:
    """Return the catalogue's entry of a model, by its name there, Hub id or folder."""
    if name in CATALOG:
        return CATALOG[name]
    sources = (e for e in CATALOG.values() if not callable(e.source) and str(e.source) == name)
    return next(sources, None)


def is_distilled(pipe: Any) -> bool:
    """Whether a pipeline is a consistency model, told by its scheduler and network."""
    told = getattr(pipe.unet.config, "time_cond_proj_dim", None) is not None
    return told or "original_inference_steps" in pipe.scheduler.config


def _of_family(xl: bool) -> Defaults:
    if xl:
        return Defaults(origin="SDXL models", guidance=5.0)
    return Defaults(origin="Stable Diffusion 1 and 2")
