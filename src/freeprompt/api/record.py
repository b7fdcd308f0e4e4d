"""Filling in the provenance of an edit."""

import time
from typing import Any

import torch

from freeprompt.api.provenance import Provenance, peak_memory
from freeprompt.api.source import InvertedImage
from freeprompt.inversion import INVERSIONS, Inversion
from freeprompt.methods import METHODS, Method, Outcome, Task
from freeprompt.models import UNetModel
from freeprompt.models.brought import brought
from freeprompt.models.fingerprint import fingerprint
from freeprompt.picture import Picture


class Meter:
    """Measures one edit: sample-forwards, seconds, peak memory."""

    def __init__(self, model: UNetModel):
        self._model, self._forwards = model, model.sample_forwards
        self._began = time.perf_counter()
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)

    def read(self) -> dict[str, Any]:
        """Return the fields of `Provenance` that are measurements."""
        return {
            "sample_forwards": self._model.sample_forwards - self._forwards,
            "seconds": round(time.perf_counter() - self._began, 3),
            "peak_memory_bytes": peak_memory(self._model.device),
        }


def recorded(
    model: UNetModel,
    method: Method,
    task: Task,
    outcome: Outcome,
    *,
    source: str | None,
    inverted: InvertedImage | None,
    inversion: Inversion | None,
    mask: Picture | None,
    notes: tuple[str, ...],
    meter: Meter,
    **more: Any,
) -> Provenance:
    """Return the provenance of an edit.

    Args:
        model: The model.
        method: The method.
        task: What it was given.
        outcome: What came of it.
        source: Source prompt as the user gave it.
        inverted: The real image, or None.
        inversion: The inversion that was used, if any.
        mask: The user's mask, if any.
        notes: What the user should know.
        meter: Running since the beginning.
        **more: The remaining fields.
    """
    picture = inverted.picture if inverted else None
    sites = sorted({site for _, site in outcome.edited}, key=lambda s: (s.kind, s.index))
    return Provenance(
        model=model.name,
        model_fingerprint=fingerprint(model.pipe),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        targets=task.targets,
        source=source if inverted is None else task.source or None,
        negative=task.negative,
        method=METHODS.name_of(method),
        parameters=method.to_dict(),
        steps=task.steps,
        guidance=task.guidance,
        image=picture.name if picture else None,
        image_sha256=picture.sha256 if picture else None,
        image_size=picture.size if picture else None,
        notes=(*(picture.notes if picture else ()), *notes),
        inversion=INVERSIONS.name_of(inversion) if inversion else None,
        inversion_parameters=inversion.to_dict() if inversion else {},
        brought=brought(model.pipe),
        mask=mask.name if mask else None,
        mask_sha256=mask.sha256 if mask else None,
        memory=model.memory.chosen,
        edited_sites=tuple(site.name for site in sites),
        edited_steps=len({step for step, _ in outcome.edited}),
        edited_pairs=len(outcome.edited),
        **more,
        **meter.read(),
    )
