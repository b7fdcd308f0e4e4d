"""`Editor.attention`: what a model's attention does while it draws, walks along or edits."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from freeprompt.analysis.look import Eye, Look
from freeprompt.analysis.maps import AttentionMaps
from freeprompt.analysis.reduce import Observed
from freeprompt.api.checks import (
    check_own,
    check_source,
    checked_guidance,
    checked_prompts,
    resolve,
    whole,
)
from freeprompt.api.defaults import filled_in
from freeprompt.api.sizes import generated_size
from freeprompt.api.source import InvertedImage, checked_seed, start_noise
from freeprompt.core import SOURCE, TARGET, Row, Sites, Window, denoise
from freeprompt.core.loop import Callback
from freeprompt.errors import ConfigError
from freeprompt.images import resize
from freeprompt.inversion import Inversion
from freeprompt.methods import METHODS, Method, TwoBranch
from freeprompt.models import UNetModel
from freeprompt.models.fingerprint import fingerprint
from freeprompt.picture import ImageInput

if TYPE_CHECKING:
    from freeprompt.api.editor import Editor


@torch.no_grad()
def attention(
    self: "Editor",
    prompt: str,
    *,
    words: Sequence[str] | None = None,
    sites: str | Sites = "auto",
    image: ImageInput | InvertedImage | None = None,
    target: str | Sequence[str] | None = None,
    method: str | Method = "fpe",
    inversion: str | Inversion | None = None,
    half: str = "cond",
    by_step: bool = False,
    by_head: bool = False,
    window: tuple[int, int] | None = None,
    large: bool = False,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str = "",
    seed: int = 0,
    latents: Tensor | None = None,
    width: int | None = None,
    height: int | None = None,
    callback: Callback | None = None,
    **parameters: Any,
) -> AttentionMaps:
    """Collect attention maps while a picture is generated, a real one walked along, or edited.

    The picture is bit for bit the one that is made without looking; a compiled denoiser is run
    uncompiled meanwhile, which may round otherwise. A real image is inverted with
    `prompt`, and the network is looked at along its trajectory, at guidance 1. With `target`, an
    edit is watched, source and targets side by side, each with its own words; the source of a real
    image is seen only in the steps in which the method reads it.

    Args:
        prompt: The prompt; with `image`, what the image shows.
        words: Words whose cross-attention maps are collected, also `<start>`, `<end>` and `<pad>`;
            None means every word of the prompt. A word spelled in several tokens is one word.
        sites: Where, such as `"cross:3,7,12"` or `"cross:all+self:below-top"`; `auto` means all
            cross-attention, and self-attention at the finest grid of at most 32x32.
        image: A real image, or the `InvertedImage` of an earlier call.
        target: One target prompt or several: watch the edit.
        method: Of the edit; one that denoises source and target side by side.
        inversion: How a real image becomes noise; None takes the method's own, mostly `ddim`.
        half: `cond`, the rows with the prompt, or `uncond`, those with the negative prompt, whose
            words are then meant.
        by_step: Keep every step by itself instead of the mean.
        by_head: Keep every head by itself instead of the mean.
        window: Look at steps `start <= i < stop` only, 0 being the noisiest.
        large: Allow self-attention maps above 32x32, and more than 1 GiB of maps.
        steps: Number of denoising steps; None for the model's default.
        guidance: Guidance scale, None for the model's default; a real image without `target` has
            none.
        negative: Prompt of the unconditional rows.
        seed: Of the start noise of a generated image.
        latents: The noise itself, (1, channels, height, width), unit variance.
        width: Of a generated image in pixels; the model's own size by default.
        height: Likewise.
        callback: Called with a `Progress` after every step.
        **parameters: Parameters of the method and the inversion, such as `share=0.6`.

    Returns:
        The maps; those of the targets are in `.targets`.

    Raises:
        ConfigError: for a word that no prompt has, or maps too large to keep unasked.
        ControlNeverFired: if `sites` selects nothing.
        BadSiteExpression: if `sites` cannot be read.

    Example:
        >>> import freeprompt as fp
        >>> maps = fp.load("tiny-sd", device="cpu").attention("a red car", words=["red"], steps=2)
        >>> maps.of("red").shape
        (16, 16)
    """
    given = {"steps": steps, "guidance": guidance}
    numbers, settings, _ = filled_in(self.model, method, given, parameters)
    how, via = resolve(method, inversion, settings)
    targets = () if target is None else checked_prompts(target)
    _check_use(parameters, how if targets else None, via if image is not None else None)
    if image is None:
        (prompt,) = checked_prompts(prompt)
    check_source(prompt, image, negative, latents, width, height)
    number = whole("The number of steps", numbers["steps"])
    scale = checked_guidance(numbers["guidance"])
    self.model.schedule(number)
    look = Look(
        model=self.model,
        words=words,
        sites=sites,
        by_step=by_step,
        by_head=by_head,
        window=_checked_window(window, number),
        large=large,
    )
    run = _Run(
        editor=self,
        look=look,
        conditional=_checked_half(half, scale, walking=image is not None and not targets),
        prompts=(prompt, *targets),
        steps=number,
        guidance=scale,
        negative=negative,
        seed=checked_seed(seed),
        callback=callback,
    )
    with _uncompiled(self.pipe.unet):
        if image is not None:
            mine = {name: value for name, value in parameters.items() if name in via.specs()}
            inverted = run.inverted(image, how, inversion, mine)
            start: dict[str, Any] = {"image": inverted, "native": True}
            return run.edited(how, start) if targets else run.walked(inverted)
        size = generated_size(self.model, width, height)
        start = {"source": prompt, "latents": latents, "width": size[0], "height": size[1]}
        return run.edited(how, start) if targets else run.generated(size, latents)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run that is looked at: the source's prompt and the targets', and how they are drawn."""

    editor: "Editor"
    look: Look
    conditional: bool
    prompts: tuple[str, ...]
    steps: int
    guidance: float
    negative: str
    seed: int
    callback: Callback | None

    @property
    def model(self) -> UNetModel:
        return self.editor.model

    def generated(self, size: tuple[int, int], latents: Tensor | None) -> AttentionMaps:
        """Draw one picture and look."""
        (prompt,) = self.prompts
        start = start_noise(self.model, size, self.seed, None, latents)
        (eye,) = self._eyes([Row("target", self.conditional)], start)
        done = denoise(
            self.model,
            self.model.schedule(self.steps),
            {"target": start},
            text={"target": self.model.encode_text([prompt])},
            null=self.model.encode_text([self.negative]),
            rows=TARGET.without(half="uncond") if self.guidance <= 1 else TARGET,
            controls=eye.controls,
            guidance=self.guidance,
            phase="source",
            callback=self.callback,
        )
        (image,), _ = self.editor._pictures(done.state["target"])
        noise = {"seed": self.seed if latents is None else None, "size": list(size)}
        return self._maps(prompt, "generated", image, eye, noise)

    def inverted(
        self,
        image: ImageInput | InvertedImage,
        how: Method,
        inversion: str | Inversion | None,
        parameters: Mapping[str, Any],
    ) -> InvertedImage:
        """Invert a real image with the prompt, or check that an inversion fits."""
        if not isinstance(image, InvertedImage):
            return self.editor.invert(
                image,
                source=self.prompts[0],
                method=how,
                inversion=inversion,
                steps=self.steps,
                guidance=self.guidance,
                negative=self.negative,
                seed=self.seed,
                callback=self.callback,
                **parameters,
            )
        check_own(image, self.model)
        if not image.inverted or image.trajectory.steps != self.steps:
            raise ConfigError(
                f"The given inversion has {image.trajectory.steps} steps, and {self.steps} were "
                "asked for. Use the same number, or give the image itself."
            )
        return image

    def walked(self, inverted: InvertedImage) -> AttentionMaps:
        """Walk along a real image's trajectory and look."""
        (prompt,) = self.prompts
        trajectory = inverted.trajectory
        (eye,) = self._eyes([Row("source", True)], trajectory.start)
        text = self.model.encode_text([prompt])
        denoise(
            self.model,
            self.model.schedule(self.steps),
            {"source": trajectory.start.to(self.model.device, self.model.dtype)},
            text={"source": text},
            null=text,
            rows=SOURCE,
            controls=eye.controls,
            start=trajectory.first,
            replay=trajectory,
            phase="reconstruct",
            callback=self.callback,
        )
        return self._maps(prompt, "real", _seen(inverted), eye, _of_image(inverted))

    def edited(self, how: Method, start: Mapping[str, Any]) -> AttentionMaps:
        """Carry out an edit and look at the source and the targets."""
        if not isinstance(how, TwoBranch):
            raise ConfigError(
                f"{type(how).__name__} runs a loop of its own, in which source and target are not "
                "side by side; its edits cannot be watched. Leave target out, or use "
                f"{', '.join(name for name in METHODS if issubclass(METHODS[name], TwoBranch))}."
            )
        inverted: InvertedImage | None = start.get("image")
        rows = [Row("source", self.conditional)]
        rows += [Row("target", self.conditional, i) for i in range(len(self.prompts) - 1)]
        eyes = self._eyes(rows, self._latent(start))
        watched = copy(self.editor)
        controls = [control for eye in eyes for control in eye.controls]
        watched.model = Observed(self.model, controls)  # type: ignore[assignment]
        result = watched.edit(
            self.prompts[1:],
            method=how,
            steps=self.steps,
            guidance=self.guidance,
            negative=self.negative,
            seed=self.seed,
            callback=self.callback,
            **start,
        )
        more: dict[str, Any] = {"method": METHODS.name_of(how), "parameters": how.to_dict()}
        more |= _of_image(inverted) if inverted else {"seed": result.provenance.seed}
        images = [_seen(inverted) if inverted else result.source, *result.images]
        source, *targets = [
            self._maps(prompt, "target" if i else "source", image, eye, more, strict=i > 0)
            for i, (prompt, image, eye) in enumerate(zip(self.prompts, images, eyes, strict=True))
        ]
        return AttentionMaps(**{**vars(source), "targets": tuple(targets)})

    def _eyes(self, rows: Sequence[Row], latent: Tensor | tuple[int, ...]) -> list[Eye]:
        shape = latent.shape if isinstance(latent, Tensor) else latent
        read = self.prompts if self.conditional else [self.negative] * len(rows)
        return self.look.eyes(list(zip(rows, read, strict=True)), (shape[-2], shape[-1]))

    def _latent(self, start: Mapping[str, Any]) -> tuple[int, ...]:
        inverted: InvertedImage | None = start.get("image")
        if inverted is not None:
            return tuple(inverted.trajectory.latents.shape)
        return self.model.latent_shape(start["width"], start["height"])

    def _maps(
        self,
        prompt: str,
        role: str,
        image: Image.Image,
        eye: Eye,
        more: Mapping[str, Any],
        *,
        strict: bool = True,
    ) -> AttentionMaps:
        """Put together what was seen; a source that no step has read has no maps."""
        found = eye.maps() if strict or eye.saw else {"cross_maps": None, "self_maps": None}
        settings = {
            "model": self.model.name,
            "model_fingerprint": fingerprint(self.editor.pipe),
            "steps": self.steps,
            "guidance": None if role == "real" else self.guidance,
            "negative": self.negative,
            "half": "cond" if self.conditional else "uncond",
            **more,
        }
        return AttentionMaps(prompt=prompt, role=role, image=image, settings=settings, **found)


def _uncompiled(denoiser: Any) -> AbstractContextManager[Any]:
    """Run what torch.compile has wrapped as it is: it cannot trace the collecting of maps."""
    compiled = hasattr(denoiser, "_orig_mod") or getattr(denoiser, "_compiled_call_impl", None)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _seen(inverted: InvertedImage) -> Image.Image:
    """Return a real image at the size at which the model works on it."""
    return resize(inverted.picture.image, inverted.size)


def _of_image(inverted: InvertedImage) -> dict[str, Any]:
    return {"image": inverted.picture.name, "image_sha256": inverted.picture.sha256}


def _checked_half(half: str, guidance: float, *, walking: bool) -> bool:
    """Return whether the conditional rows are meant."""
    if half not in ("cond", "uncond"):
        raise ConfigError(f"half must be cond or uncond; got {half!r}.")
    if half == "uncond" and (walking or guidance <= 1):
        raise ConfigError(
            "There are no unconditional rows at guidance 1 or below, nor when a real image is "
            "walked along. Use half='cond'."
        )
    return half == "cond"


def _checked_window(window: tuple[int, int] | None, steps: int) -> Window:
    start, stop = (0, steps) if window is None else window
    first, last = whole("The first step", start), whole("The last step", stop)
    if not 0 <= first < last <= steps:
        raise ConfigError(
            f"window must lie within the {steps} steps, as (start, stop) with 0 <= start < stop <= "
            f"{steps}; got {window!r}."
        )
    return Window(first, last)


def _check_use(parameters: Mapping[str, Any], how: Method | None, via: Inversion | None) -> None:
    """Refuse parameters of an edit or an inversion that will not take place."""
    used = {name for owner in (how, via) if owner is not None for name in owner.specs()}
    for name in parameters:
        if name not in used:
            raise ConfigError(
                f"{name!r} would have no effect here: methods act with target=, inversions with "
                "image=. Leave it out, or say what to edit."
            )
