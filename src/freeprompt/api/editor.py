"""`Editor`: one model, ready to edit."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freeprompt.api import attention as looking
from freeprompt.api.checks import (
    check_generated,
    check_keep,
    check_reuse,
    check_source,
    checked_prompts,
    notes_on,
)
from freeprompt.api.fitting import Fitting
from freeprompt.api.mask import latent_mask, opened_mask
from freeprompt.api.plan import Plan
from freeprompt.api.record import Meter, recorded
from freeprompt.api.result import EditResult
from freeprompt.api.saved import is_saved, load_inverted
from freeprompt.api.sizes import generated_size, working_size
from freeprompt.api.source import InvertedImage, start_noise
from freeprompt.api.steering import ControlImages, Shares, Weights, steered
from freeprompt.core import Tape, Trajectory
from freeprompt.core.loop import Callback
from freeprompt.images import resize, to_images, to_tensor
from freeprompt.inversion import Inversion
from freeprompt.methods import Method, Task
from freeprompt.methods.base import generated_source
from freeprompt.models import Memory, adapt, load_networks, load_pipeline, settle
from freeprompt.picture import ImageInput, Picture, open_image


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: Memory | None = None,
    controlnet: Sequence[str | Path] = (),
    adapter: Sequence[str | Path] = (),
    **reading: Any,
) -> "Editor":
    """Load a model and return an editor for it.

    Args:
        model: A catalogue name (`freeprompt models` lists them), a folder in diffusers layout, a
            single file in the original layout of SD 1, SD 2 or SDXL, or a Hub id (`owner/name`).
        device: `auto` takes cuda, then mps, then cpu; or any torch device.
        dtype: `auto` takes float16 on cuda and float32 elsewhere. `float32` on `cpu` is exact and
            reproducible to the byte.
        memory: How the model is fitted into the memory there is, such as
            `Memory(offload="model")`.
        controlnet: ControlNets that every edit runs with: folders, single files or Hub ids. Each
            edit gives a control image for each (`control_image=`).
        adapter: T2I-Adapters, likewise; their control images come after those of the ControlNets.
        **reading: How its files are read, and what is added to it: `variant`, `config`, `offline`,
            `allow_pickle`, `lora`, `embedding`, as in `freeprompt.models.load_pipeline`.

    Raises:
        UnknownModel: if it is none of the four.
        ModelError: if it cannot be read, fetched or edited with.
        ConfigError: for a device or dtype that does not exist here.
    """
    pipe = load_pipeline(model, device=device, dtype=dtype, memory=memory, **reading)
    editor = Editor(pipe, name=str(model))
    editor.model.memory = Memory() if memory is None else memory
    editor.model.networks += load_networks(
        pipe, {"controlnet": controlnet, "adapter": adapter}, reading
    )
    return editor


class Editor:
    """Edits images with one diffusers pipeline, and leaves that pipeline as it found it.

    Args:
        pipe: A pipeline of the Stable Diffusion 1.x or 2.x family.
        name: How messages and provenance call it; by default what it was loaded from.
        memory: How edits are fitted into the memory there is. What changes the pipeline itself is
            not for a pipeline of your own: use diffusers' switches, or `load`.

    Raises:
        UnsupportedModel: if the pipeline is of another family.
        ConfigError: if `memory` would change the pipeline.

    Example:
        >>> import freeprompt as fp
        >>> editor = fp.load("tiny-sd", device="cpu")
        >>> result = editor.edit("a red cat", source="a red dog", steps=4, seed=7)
        >>> result.provenance.sample_forwards
        16
    """

    def __init__(self, pipe: Any, *, name: str | None = None, memory: Memory | None = None):
        known = getattr(pipe, "name_or_path", "") or type(pipe).__name__
        self.model = adapt(pipe, known if name is None else name)
        if memory is not None:
            self.model.memory = memory.leaving_pipe()

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
        control_image: ControlImages | None = None,
        control_weight: Weights = 1.0,
        control_window: Shares = (0.0, 1.0),
        method: str | Method = "fpe",
        inversion: str | Inversion | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str = "",
        seed: int = 0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        width: int | None = None,
        height: int | None = None,
        native: bool = False,
        keep: str | Path | None = None,
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
                shape. For methods that use one (`fpe-protect`, `diffedit`); an inpainting model
                needs it.
            control_image: What the ControlNet or T2I-Adapter that the model was loaded with reads;
                for several networks a list, one image each. Source and target share it, and so
                does the inversion.
            control_weight: Factor of what it adds; 0 switches it off. Or one for each image.
            control_window: Share of the steps in which it acts, (from, to). Or one for each image.
            method: Name or instance; `freeprompt methods` lists them.
            inversion: Name or instance; how a real image becomes noise. None takes the method's
                own, mostly `ddim`; `freeprompt inversions` lists them.
            steps: Number of denoising steps; None for the model's default, mostly 50.
            guidance: Guidance scale; at 1 or below prompts act without contrast to `negative`. None
                is the model's default, mostly 7.5.
            negative: Prompt of the unconditional rows.
            seed: Of the start noise and of all else that is drawn, on the CPU.
            generator: Draws the noise instead of `seed`.
            latents: The noise itself, (1, channels, height, width), unit variance.
            width: Of a generated image in pixels; the model's own size by default.
            height: Likewise.
            native: Return edits of a real image at the size the model worked at, instead of the
                size of the image.
            keep: Folder for what a method learns of the source (`imagic`), so that another edit
                of it need not learn it again, and an interrupted one goes on. By default nothing
                is kept.
            callback: Called with a `Progress` after every step; what it raises ends the edit.
            **parameters: Parameters of the method and the inversion, such as `share=0.6`; layers
                (`sites`) have defaults by model, too.

        Returns:
            Pictures and provenance, whose `defaults` tells what the model's defaults decided.

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
        check_generated(image, native, generator, latents)
        plan = Plan.of(
            self.model,
            image=image,
            source=source,
            method=method,
            inversion=inversion,
            parameters=parameters,
            steps=steps,
            guidance=guidance,
            negative=negative,
            seed=seed,
        )
        # from here on: the editor whose model sees the control images
        control = (control_image, control_weight, control_window)
        self = steered(self, plan.steps, control, image, mask)
        how = plan.method
        how.check(prompts)
        check_keep(how, keep)
        painted = None if mask is None else opened_mask(mask, how)
        meter = Meter(self.model)
        self.model.cuts.clear()
        fit = Fitting(self.model)
        inverted = None
        if image is not None:
            inverted = fit.part(partial(self._source, image, source, plan, callback))
        if inverted is None:
            size = generated_size(self.model, width, height)
            start = start_noise(self.model, size, plan.seed, generator, latents)
        else:
            size, start = inverted.size, inverted.trajectory.start
        task = Task(
            targets=prompts,
            source=(source or "") if inverted is None else inverted.trajectory.prompt,
            start=start,
            trajectory=inverted.trajectory if inverted else None,
            tape=inverted.tape if inverted and plan.records else None,
            mask=self._room(painted, inverted.picture.size if inverted else size, start),
            keep=None if keep is None else Path(keep),
            callback=callback,
            **plan.rules,
        )
        generated = None
        if inverted is None and how.needs:
            task, generated = fit.part(partial(self._generated_and_inverted, task, plan.inversion))
        outcome = fit.edit(how, task)
        images, flags = fit.part(partial(self._pictures, outcome.targets))
        if inverted and not native:
            images = [inverted.restore_size(picture) for picture in images]
        provenance = recorded(
            self.model,
            how,
            task,
            outcome,
            source=source,
            inverted=inverted,
            inversion=inverted.inversion if inverted else plan.inversion if how.needs else None,
            mask=painted,
            notes=(*self.model.cuts.values(), *notes_on(how, task, outcome), *fit.notes),
            meter=meter,
            size=size,
            native=native,
            defaults=dict(plan.defaults),
            control=self.model.told,
            seed=plan.seed if generator is None and latents is None else None,
            flagged=tuple(flags),
        )
        kept = outcome.source if generated is None else generated
        drawn = None if kept is None else fit.part(partial(self._pictures, kept))[0][0]
        settle(self.pipe)
        return EditResult(
            images=images,
            provenance=provenance,
            inverted=inverted,
            generated=drawn,
        )

    @torch.no_grad()
    def invert(
        self,
        image: ImageInput,
        *,
        source: str = "",
        control_image: ControlImages | None = None,
        control_weight: Weights = 1.0,
        control_window: Shares = (0.0, 1.0),
        method: str | Method = "fpe",
        inversion: str | Inversion | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str = "",
        seed: int = 0,
        callback: Callback | None = None,
        **parameters: Any,
    ) -> InvertedImage:
        """Invert a real image once, to edit it many times with `edit(..., image=inverted)`.

        Args:
            image: File, PIL image, array or bytes.
            source: What the image shows; empty is fine.
            control_image: That of the edits to come; so are the next two.
            control_weight: Factor of what it adds.
            control_window: Share of the steps in which it acts.
            method: The method to come; some record tensors meanwhile.
            inversion: Name or instance; None takes the method's own.
            steps: Number of denoising steps of the edits to come; None for the model's default.
            guidance: Their guidance scale, None for the model's default; null-text inversion holds
                for this one only.
            negative: Their negative prompt; likewise.
            seed: Of noise that an inversion draws.
            callback: Called after every step.
            **parameters: Parameters of the method and the inversion.

        Raises:
            ConfigError: for values that cannot be used.
            ImageError: for a file that is no usable image.
            OutOfMemory: if it does not fit into memory, and nothing is left to try.
        """
        check_source(source, image, negative)
        plan = Plan.of(
            self.model,
            image=image,
            source=source,
            method=method,
            inversion=inversion,
            parameters=parameters,
            steps=steps,
            guidance=guidance,
            negative=negative,
            seed=seed,
        )
        self = steered(self, plan.steps, (control_image, control_weight, control_window))
        self.model.cuts.clear()
        inverting = partial(self._inverted, image, source, plan, callback)
        return Fitting(self.model).part(inverting)

    attention = looking.attention

    def _source(
        self,
        image: ImageInput | InvertedImage,
        source: str | None,
        plan: Plan,
        callback: Callback | None,
    ) -> InvertedImage:
        """Return a real image inverted: as it was before, if that fits, or now."""
        if not isinstance(image, InvertedImage):
            return self._inverted(image, source, plan, callback)
        asked = plan.inversion if plan.asked else None
        check_reuse(image, self.model, source, plan.method, asked, **plan.rules)
        # one read from a file has the plain model, which knows nothing of its control images
        return image if image.model.told == image.control else replace(image, model=self.model)

    def _inverted(
        self, image: ImageInput, source: str | None, plan: Plan, callback: Callback | None
    ) -> InvertedImage:
        picture = open_image(image)
        size = working_size(self.model, picture)
        clean = self.model.encode_image(to_tensor(resize(picture.image, size)))
        trajectory, tape = Trajectory(latents=clean, prompt=source or ""), Tape()
        if plan.method.inverts:
            trajectory = plan.inversion(
                self.model,
                clean,
                prompt=source or "",
                controls=plan.method.while_inverting(tape, plan.steps),
                callback=callback,
                **plan.rules,
            )
        return InvertedImage(
            model=self.model,
            picture=picture,
            size=size,
            trajectory=trajectory,
            inversion=plan.inversion if plan.method.inverts else None,
            tape=tape if plan.records else None,
            control=self.model.told,
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

    @staticmethod
    def _room(mask: Picture | None, size: tuple[int, int], start: Tensor) -> Tensor | None:
        """Return a mask on the latent grid."""
        if mask is None:
            return None
        return latent_mask(mask, size, (start.shape[-2], start.shape[-1])).to(start.device)

    def _pictures(self, latents: Tensor) -> tuple[list[Any], list[bool]]:
        checked, flags = self.model.screen(self.model.decode(latents))
        return to_images(checked), flags
