"""`Editor`: one model, ready to edit."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freeprompt.api import attention as looking
from freeprompt.api.checks import (
    check_reuse,
    check_sites,
    check_source,
    checked_guidance,
    checked_prompts,
    integer,
    notes_on,
    resolve,
    whole,
)
from freeprompt.api.mask import check_uses_mask, latent_mask
from freeprompt.api.pairs import check_pair
from freeprompt.api.provenance import Provenance, peak_memory
from freeprompt.api.result import EditResult
from freeprompt.api.saved import is_saved, load_inverted
from freeprompt.api.source import InvertedImage, checked_seed, start_noise
from freeprompt.core import Tape, Trajectory
from freeprompt.core.loop import Callback
from freeprompt.errors import ConfigError
from freeprompt.images import fit, resize, to_images, to_tensor
from freeprompt.inversion import INVERSIONS, Inversion
from freeprompt.methods import METHODS, Method, Outcome, Task
from freeprompt.methods.base import generated_source
from freeprompt.models import UNetModel, adapt, load_pipeline
from freeprompt.models.fingerprint import fingerprint
from freeprompt.picture import ImageInput, Picture, open_image


def load(model: str | Path, *, device: str = "auto", dtype: str = "auto") -> "Editor":
    """Load a model and return an editor for it.

    Args:
        model: A catalogue name (`freeprompt models` lists them), a folder in diffusers layout, or
            a Hub id such as `owner/name`.
        device: `auto` takes cuda, then mps, then cpu; or any torch device.
        dtype: `auto` takes float16 on cuda and float32 elsewhere. `float32` on `cpu` is exact and
            reproducible to the byte.

    Raises:
        UnknownModel: if it is none of the three.
        ModelError: if it cannot be read, fetched or edited with.
        ConfigError: for a device or dtype that does not exist here.
    """
    return Editor(load_pipeline(model, device=device, dtype=dtype), name=str(model))


class Editor:
    """Edits images with one diffusers pipeline, and leaves that pipeline as it found it.

    Args:
        pipe: A pipeline of the Stable Diffusion 1.x or 2.x family.
        name: How messages and provenance call it; by default what it was loaded from.

    Raises:
        UnsupportedModel: if the pipeline is of another family.

    Example:
        >>> import freeprompt as fp
        >>> editor = fp.load("tiny-sd", device="cpu")
        >>> result = editor.edit("a red cat", source="a red dog", steps=4, seed=7)
        >>> result.provenance.sample_forwards
        16
    """

    def __init__(self, pipe: Any, *, name: str | None = None):
        known = getattr(pipe, "name_or_path", "") or type(pipe).__name__
        self.model = adapt(pipe, known if name is None else name)

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline."""
        return self.model.pipe

    @torch.no_grad()
    def edit(
        self,
        targets: str | Sequence[str],
        *,
        source: str | None = None,
        image: ImageInput | InvertedImage | None = None,
        mask: ImageInput | None = None,
        method: str | Method = "fpe",
        inversion: str | Inversion | None = None,
        steps: int = 50,
        guidance: float = 7.5,
        negative: str = "",
        seed: int = 0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        width: int | None = None,
        height: int | None = None,
        native: bool = False,
        callback: Callback | None = None,
        **parameters: Any,
    ) -> EditResult:
        """Edit a generated or a real image towards one or more target prompts.

        Args:
            targets: One prompt, or several that share the source.
            source: Prompt of the source. Needed for a generated image; for a real one it may say
                what is there, and FPE does without.
            image: A real image: file, PIL image, array, bytes, or the `InvertedImage` of an
                earlier call or its saved file, whose work is then not done again.
            mask: White where the picture may change, black where it must not; of the picture's
                shape. For methods that use one (`fpe-protect`, `diffedit`).
            method: Name or instance; `freeprompt methods` lists them.
            inversion: Name or instance; how a real image becomes noise. None takes the method's
                own, mostly `ddim`; `freeprompt inversions` lists them.
            steps: Number of denoising steps.
            guidance: Guidance scale; at 1 or below prompts act without contrast to `negative`.
            negative: Prompt of the unconditional rows.
            seed: Of the start noise and of all else that is drawn, on the CPU.
            generator: Draws the noise instead of `seed`.
            latents: The noise itself, (1, channels, height, width), unit variance.
            width: Of a generated image in pixels; the model's own size by default.
            height: Likewise.
            native: Return edits of a real image at the size the model worked at, instead of the
                size of the image.
            callback: Called with a `Progress` after every step; what it raises ends the edit.
            **parameters: Parameters of the method and the inversion, such as `share=0.6`.

        Returns:
            Pictures and provenance.

        Raises:
            ConfigError: for values that cannot be used.
            ImageError: for a file that is no usable image.
            ControlNeverFired: if nothing would have been edited although something should.
            AlreadyAttached: if this model is editing right now.
        """
        prompts = checked_prompts(targets)
        if is_saved(image):
            image = load_inverted(image, self.model)  # type: ignore[arg-type]
        check_source(source, image, negative, generator, latents, width, height)
        seed, guidance = checked_seed(seed), checked_guidance(guidance)
        how, via = resolve(method, inversion, parameters)
        masked = None
        if mask is not None:
            check_uses_mask(how)
            masked = open_image(mask)
        asked = via if inversion is not None or set(via.specs()) & set(parameters) else None
        how.check(prompts)
        steps = self._checked(how, steps)
        wanted = {"steps": steps, "guidance": guidance, "negative": negative, "seed": seed}
        check_pair(how, via, image, inversion is not None, source, guidance, negative)
        meter = _Meter(self.model)
        self.model.cuts.clear()
        inverted = None
        if image is None:
            size = self._generated_size(width, height)
            start = start_noise(self.model, size, seed, generator, latents)
        else:
            if isinstance(image, InvertedImage):
                check_reuse(image, self.model, source, how, asked, **wanted)
                inverted = image
            else:
                inverted = self._inverted(image, source, how, via, wanted, callback)
            size, start = inverted.size, inverted.trajectory.start
        room = None
        if masked is not None:
            shown = inverted.picture.size if inverted else size
            room = latent_mask(masked, shown, (start.shape[-2], start.shape[-1])).to(start.device)
        task = Task(
            targets=prompts,
            source=(source or "") if inverted is None else inverted.trajectory.prompt,
            start=start,
            steps=steps,
            guidance=guidance,
            negative=negative,
            trajectory=inverted.trajectory if inverted else None,
            tape=inverted.tape if inverted and how.while_inverting(Tape(), steps) else None,
            mask=room,
            seed=seed,
            callback=callback,
        )
        generated = None
        if image is None and how.needs:
            task, generated = self._generated_and_inverted(task, via)
        outcome = how(self.model, task)
        notes = (*self.model.cuts.values(), *notes_on(how, task, outcome))
        images, flags = self._pictures(outcome.targets)
        if inverted and not native:
            images = [inverted.restore_size(picture) for picture in images]
        provenance = Provenance(
            **self._identity(),
            **_asked(task, how, source),
            **_of_image(inverted, notes, via if generated is not None else None),
            mask=masked.name if masked else None,
            mask_sha256=masked.sha256 if masked else None,
            **_done(outcome),
            size=size,
            native=native,
            seed=seed if generator is None and latents is None else None,
            flagged=tuple(flags),
            **meter.read(),
        )
        kept = outcome.source if generated is None else generated
        return EditResult(
            images=images,
            provenance=provenance,
            inverted=inverted,
            generated=None if kept is None else self._pictures(kept)[0][0],
        )

    @torch.no_grad()
    def invert(
        self,
        image: ImageInput,
        *,
        source: str = "",
        method: str | Method = "fpe",
        inversion: str | Inversion | None = None,
        steps: int = 50,
        guidance: float = 7.5,
        negative: str = "",
        seed: int = 0,
        callback: Callback | None = None,
        **parameters: Any,
    ) -> InvertedImage:
        """Invert a real image once, to edit it many times with `edit(..., image=inverted)`.

        Args:
            image: File, PIL image, array or bytes.
            source: What the image shows; empty is fine.
            method: The method to come; some record tensors meanwhile.
            inversion: Name or instance; None takes the method's own.
            steps: Number of denoising steps of the edits to come.
            guidance: Their guidance scale; null-text inversion holds for this one only.
            negative: Their negative prompt; likewise.
            seed: Of noise that an inversion draws.
            callback: Called after every step.
            **parameters: Parameters of the method and the inversion.

        Raises:
            ConfigError: for values that cannot be used.
            ImageError: for a file that is no usable image.
        """
        how, via = resolve(method, inversion, parameters)
        check_source(source, image, negative)
        seed, guidance = checked_seed(seed), checked_guidance(guidance)
        steps = self._checked(how, steps)
        check_pair(how, via, image, inversion is not None, source, guidance, negative)
        self.model.cuts.clear()
        wanted = {"steps": steps, "guidance": guidance, "negative": negative, "seed": seed}
        return self._inverted(image, source, how, via, wanted, callback)

    attention = looking.attention

    def _inverted(
        self,
        image: ImageInput,
        source: str | None,
        how: Method,
        via: Inversion,
        wanted: Mapping[str, Any],
        callback: Callback | None,
    ) -> InvertedImage:
        picture = open_image(image)
        size = self._working_size(picture)
        clean = self.model.encode_image(to_tensor(resize(picture.image, size)))
        if not how.inverts:
            return InvertedImage(
                model=self.model,
                picture=picture,
                size=size,
                trajectory=Trajectory(latents=clean, prompt=source or ""),
                inversion=None,
            )
        tape = Tape()
        observers = how.while_inverting(tape, wanted["steps"])
        trajectory = via(
            self.model,
            clean,
            prompt=source or "",
            controls=observers,
            callback=callback,
            **wanted,
        )
        return InvertedImage(
            model=self.model,
            picture=picture,
            size=size,
            trajectory=trajectory,
            inversion=via,
            tape=tape if observers else None,
        )

    def _generated_and_inverted(self, task: Task, via: Inversion) -> tuple[Task, Tensor]:
        """Generate the source, invert it as if it were real; return the new task and the source."""
        clean = generated_source(self.model, task).clean
        path = via(
            self.model,
            clean,
            steps=task.steps,
            prompt=task.source,
            guidance=task.guidance,
            negative=task.negative,
            seed=task.seed,
            callback=task.callback,
        )
        return replace(task, trajectory=path, start=path.start), clean

    def _checked(self, how: Method, steps: Any) -> int:
        """Refuse steps and sites that the model does not have; return the steps as an int."""
        number = whole("The number of steps", steps)
        self.model.schedule(number)
        how.check_steps(number)
        check_sites(how, self.model)
        return number

    def _working_size(self, picture: Picture) -> tuple[int, int]:
        return fit(
            picture.size,
            area=self.model.native_size**2,
            multiple=self.model.granularity,
            shortest=self.model.shortest_side,
        )

    def _generated_size(self, width: int | None, height: int | None) -> tuple[int, int]:
        native, unit = self.model.native_size, self.model.granularity
        size = []
        for name, given in (("width", width), ("height", height)):
            value = native if given is None else integer(given)
            if value is None or value % unit or value < self.model.shortest_side:
                raise ConfigError(
                    f"{name} must be a multiple of {unit} pixels, at least "
                    f"{self.model.shortest_side}; got {given!r}. The model's own is {native}."
                )
            size.append(value)
        return size[0], size[1]

    def _pictures(self, latents: Tensor) -> tuple[list[Any], list[bool]]:
        checked, flags = self.model.screen(self.model.decode(latents))
        return to_images(checked), flags

    def _identity(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "model_fingerprint": fingerprint(self.pipe),
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


class _Meter:
    """Measures one edit: sample-forwards, seconds, peak memory."""

    def __init__(self, model: UNetModel):
        self._model, self._forwards = model, model.sample_forwards
        self._began = time.perf_counter()
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)

    def read(self) -> dict[str, Any]:
        return {
            "sample_forwards": self._model.sample_forwards - self._forwards,
            "seconds": round(time.perf_counter() - self._began, 3),
            "peak_memory_bytes": peak_memory(self._model.device),
        }


def _asked(task: Task, method: Method, source: str | None) -> dict[str, Any]:
    return {
        "targets": task.targets,
        "source": source if task.trajectory is None else task.source or None,
        "negative": task.negative,
        "method": METHODS.name_of(method),
        "parameters": method.to_dict(),
        "steps": task.steps,
        "guidance": task.guidance,
    }


def _of_image(
    inverted: InvertedImage | None, notes: tuple[str, ...], of_generated: Inversion | None
) -> dict[str, Any]:
    picture = inverted.picture if inverted else None
    inversion = inverted.inversion if inverted else of_generated
    return {
        "image": picture.name if picture else None,
        "image_sha256": picture.sha256 if picture else None,
        "image_size": picture.size if picture else None,
        "notes": (*(picture.notes if picture else ()), *notes),
        "inversion": INVERSIONS.name_of(inversion) if inversion else None,
        "inversion_parameters": inversion.to_dict() if inversion else {},
    }


def _done(outcome: Outcome) -> dict[str, Any]:
    sites = sorted({site for _, site in outcome.edited}, key=lambda s: (s.kind, s.index))
    return {
        "edited_sites": tuple(site.name for site in sites),
        "edited_steps": len({step for step, _ in outcome.edited}),
        "edited_pairs": len(outcome.edited),
    }
