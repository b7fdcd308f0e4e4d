"""`FreePromptEditingPipeline`: the editor with the conventions of diffusers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DiffusionPipeline,
    MultiControlNetModel,
    T2IAdapter,
    UNet2DConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from freeprompt.api import Editor, EditResult
from freeprompt.api.provenance import Provenance
from freeprompt.core.loop import Callback, Progress
from freeprompt.errors import ConfigError
from freeprompt.inversion import Inversion
from freeprompt.methods import Method

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
Told = Callable[[Any, int, int, dict[str, Any]], Mapping[str, Any]]


@dataclass
class FreePromptEditingPipelineOutput(BaseOutput):  # type: ignore[misc]
    """What the pipeline returns.

    Attributes:
        images: One edit a target prompt: a list of PIL images; or, by `output_type`, an array
            (edits, height, width, 3) or tensor (edits, 3, height, width) in [0, 1], or the scaled
            latents.
        nsfw_content_detected: What the safety checker said of each, or None without one.
        source: The generated source, or None for a real image.
        provenance: Recipe and cost.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None
    source: Image.Image | None
    provenance: Provenance


class FreePromptEditingPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Edit a generated or a real image towards target prompts, as a diffusers pipeline.

    It takes the parts of a Stable Diffusion 1, 2 or XL pipeline. All work is done by `Editor`;
    nothing is computed here. LoRAs and embeddings are loaded into the stock pipeline first:
    `from_pipe` shares its modules.

    Args:
        vae: The VAE.
        text_encoder: The text encoder; SDXL's first.
        tokenizer: Its tokenizer.
        unet: The denoiser.
        scheduler: Any scheduler of diffusion; noise levels and prediction type are read from it.
        text_encoder_2: SDXL's second text encoder.
        tokenizer_2: Its tokenizer.
        safety_checker: Blackens what it flags.
        feature_extractor: What the safety checker sees with.
        controlnet: ControlNet, or several, that read control images.
        adapter: T2I-Adapter that reads a control image.
        force_zeros_for_empty_prompt: SDXL: whether an empty prompt is encoded as zeros.

    Raises:
        UnsupportedModel: if the parts are those of another family.

    Example:
        >>> from freeprompt.models.tiny import tiny_sd
        >>> pipe = FreePromptEditingPipeline.from_pipe(tiny_sd())
        >>> out = pipe("a red cat", source_prompt="a red dog", num_inference_steps=2)
        >>> out.images[0].size
        (128, 128)
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    # lists, as diffusers adds others to them
    _exclude_from_cpu_offload: ClassVar = ["safety_checker"]
    _optional_components: ClassVar = [
        "text_encoder_2",
        "tokenizer_2",
        "safety_checker",
        "feature_extractor",
        "controlnet",
        "adapter",
    ]
    _callback_tensor_inputs: ClassVar = ["latents", "source_latents"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        text_encoder_2: CLIPTextModelWithProjection = None,
        tokenizer_2: CLIPTokenizer = None,
        safety_checker: StableDiffusionSafetyChecker = None,
        feature_extractor: CLIPImageProcessor = None,
        controlnet: ControlNetModel | MultiControlNetModel = None,
        adapter: T2IAdapter = None,
        force_zeros_for_empty_prompt: bool = True,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            controlnet=controlnet,
            adapter=adapter,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt)
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=scale)
        _Seen(self)  # refuses parts of another family now, not at the first call

    run_safety_checker = StableDiffusionPipeline.run_safety_checker

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> "FreePromptEditingPipeline":
        """Make this pipeline from another one; their modules are shared and stay as they are."""
        if not {"dtype", "torch_dtype"} & set(kwargs):
            kwargs["dtype"] = pipeline.dtype  # diffusers' default would turn both to float32
        made: FreePromptEditingPipeline = super().from_pipe(pipeline, **kwargs)
        return made

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        source_prompt: str | None = None,
        image: Any = None,
        mask_image: Any = None,
        control_image: Any = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
        method: str | Method = "fpe",
        inversion: str | Inversion | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Told | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **parameters: Any,
    ) -> FreePromptEditingPipelineOutput | tuple[Any, list[bool] | None]:
        """Edit a generated image (`source_prompt`) or a real one (`image`).

        Args:
            prompt: Target prompt, or several that share the source.
            source_prompt: Prompt of the source; for a real image, what it shows, if said.
            image: A real image: PIL image, array, file or bytes.
            mask_image: White where the picture may change; for methods that use one.
            control_image: What the pipeline's ControlNet or T2I-Adapter reads; a list for several.
            controlnet_conditioning_scale: Factor of what it adds, of an adapter as well.
            control_guidance_start: Share of the steps from which it acts.
            control_guidance_end: Share of the steps up to which it acts.
            method: Name or instance of an editing method.
            inversion: Name or instance of an inversion; None takes the method's own.
            height: Of a generated image in pixels.
            width: Likewise.
            num_inference_steps: Number of denoising steps; None for the model's default, mostly 50.
            guidance_scale: Guidance scale; None for the model's default, mostly 7.5.
            negative_prompt: Prompt of the unconditional rows.
            generator: Draws the noise of a generated source, and all else that is random. None is
                a different picture at every call.
            latents: The noise itself, (1, channels, height, width).
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: Whether to return an output object, or (images, flags).
            callback_on_step_end: Called as `callback(pipe, step, timestep, tensors)` after every
                step of the edit; must return the tensors it was given. To stop, raise.
            callback_on_step_end_tensor_inputs: Which of `latents` (the targets') and
                `source_latents` it gets.
            **parameters: Parameters of the method and the inversion, such as `share=0.6`.

        Raises:
            FreepromptError: as `Editor.edit`.
        """
        if output_type not in OUTPUT_TYPES:
            raise ConfigError(
                f"output_type must be {', '.join(OUTPUT_TYPES)}; got {output_type!r}."
            )
        editor = _Seen(self)
        told = callback_on_step_end
        result = editor.edit(
            prompt,
            source=source_prompt,
            image=image,
            mask=mask_image,
            control_image=control_image,
            control_weight=controlnet_conditioning_scale,
            control_window=(control_guidance_start, control_guidance_end),
            method=method,
            inversion=inversion,
            steps=num_inference_steps,
            guidance=guidance_scale,
            negative="" if negative_prompt is None else negative_prompt,
            width=width,
            height=height,
            callback=None if told is None else self._told(told, callback_on_step_end_tensor_inputs),
            **_noise(image, generator, latents),
            **parameters,
        )
        self.maybe_free_model_hooks()
        images = editor.as_type(result, output_type)
        flags = None if self.safety_checker is None else list(result.provenance.flagged)
        if not return_dict:
            return images, flags
        return FreePromptEditingPipelineOutput(
            images=images,
            nsfw_content_detected=flags,
            source=result.generated,
            provenance=result.provenance,
        )

    def _told(self, callback: Told, names: Sequence[str]) -> Callback:
        """Turn diffusers' kind of callback into ours."""
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ConfigError(
                f"callback_on_step_end_tensor_inputs may name "
                f"{', '.join(self._callback_tensor_inputs)}; got {unknown!r}."
            )

        def tell(progress: Progress) -> None:
            if progress.phase != "edit":
                return
            state = {"latents": "target", "source_latents": "source"}
            given = {n: progress.state[b] for n, b in state.items() if n in names}  # type: ignore[index]
            steps = self._model_schedule(progress.steps)
            returned = callback(self, progress.step, steps[progress.step], dict(given))
            if not isinstance(returned, Mapping) or any(
                returned.get(name, value) is not value for name, value in given.items()
            ):
                raise ConfigError(
                    "callback_on_step_end must return the tensors that it was given: an edit's "
                    "latents cannot be exchanged on the way. Write a control for that "
                    "(freeprompt.controlled)."
                )

        return tell

    def _model_schedule(self, steps: int) -> tuple[int, ...]:
        return _Seen(self).model.schedule(steps).timesteps


class _Seen(Editor):
    """An editor that keeps the latents of the edits, which are decoded first of all."""

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self.latents: list[Tensor] = []

    def _pictures(self, latents: Tensor) -> tuple[list[Any], list[bool]]:
        self.latents.append(latents)
        return super()._pictures(latents)

    def as_type(self, result: EditResult, output_type: str) -> Any:
        """Return the edits in the form that diffusers calls by that name."""
        if output_type == "pil":
            return result.images
        if output_type == "latent":
            return self.latents[0]
        checked, _ = self.model.screen(self.model.decode(self.latents[0]))
        pictures = (checked.float().cpu() / 2 + 0.5).clamp(0, 1)
        return pictures if output_type == "pt" else pictures.permute(0, 2, 3, 1).numpy()


def _noise(image: Any, generator: Any, latents: Any) -> dict[str, Any]:
    """Return what an edit is told of randomness."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigError(
            f"generator must be one torch.Generator, as all targets share one source; got "
            f"{type(generator).__name__}."
        )
    if image is None and (generator is not None or latents is not None):
        return {"generator": generator, "latents": latents}
    device = "cpu" if generator is None else generator.device
    seed = torch.randint(2**62, (), generator=generator, device=device)
    return {"seed": int(seed), "latents": latents}
