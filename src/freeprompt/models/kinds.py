"""What a file of weights is, told by the names and shapes in it alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from freeprompt.errors import ModelError, UnsupportedModel
from freeprompt.models.ldm import CLIP, OPEN_CLIP, UNET, VAE, XL_CLIP, XL_OPEN_CLIP
from freeprompt.models.stored import Stored

FIRST = f"{UNET}input_blocks.0.0.weight"  # (channels, input channels, 3, 3)
WHOLE = "a checkpoint of Stable Diffusion 1, 2 or XL"
PIPELINES = {4: "Pipeline", 8: "InstructPix2PixPipeline", 9: "InpaintPipeline"}  # by input channels
INPUTS = {
    5: "a depth-to-image model (5 input channels)",
    7: "an upscaler (7 input channels)",
}
EDM = ("edm_mean", "edm_vpred.sigma_max")  # Playground 2.5; CosXL and its editing model


@dataclass(frozen=True)
class Layout:
    """One of the original layouts.

    Attributes:
        config: Name of the config that belongs to it, a folder of `models/configs`.
        xl: Whether it is SDXL's.
        open_clip: Whether its only text encoder is OpenCLIP's.
        inputs: Channels that its UNet takes: 4, 8 for InstructPix2Pix, 9 for an inpainting model.
        note: What could not be told from the file, for a warning; mostly empty.
    """

    config: str
    xl: bool = False
    open_clip: bool = False
    inputs: int = 4
    note: str = ""

    @property
    def pipeline(self) -> str:
        """Name of the diffusers class that it makes."""
        return f"StableDiffusion{'XL' if self.xl else ''}{PIPELINES[self.inputs]}"


def layout_of(stored: Stored) -> Layout:
    """Return the layout of a whole checkpoint.

    Raises:
        UnsupportedModel: if it is a whole model of a kind that cannot be edited with.
        ModelError: if it is no whole model; the message says what it is and what to do with it.
    """
    name = repr(str(stored.path))
    for what, advice, supported in _others(stored):
        kind = ModelError if supported else UnsupportedModel
        raise kind(f"{name} is {what}, not {WHOLE}. {advice}")
    if not stored.has(UNET):
        names = ", ".join(sorted(stored.shapes)[:3]) or "nothing at all"
        raise ModelError(
            f"{name} is not {WHOLE}: it holds {len(stored.shapes)} tensors, and none belongs to a "
            f"UNet in the original layout. It begins with {names}."
        )
    inputs = _inputs(stored, name)
    if stored.has(*EDM):
        raise UnsupportedModel(
            f"{name} has the noise levels of EDM (Playground 2.5, CosXL), on which DDIM does not "
            "run. Use a model of SDXL's own noise levels."
        )
    return replace(_family(stored, name, inputs), inputs=inputs)


def _inputs(stored: Stored, name: str) -> int:
    """Return how many channels the UNet takes.

    Raises:
        UnsupportedModel: if it takes what is not given to it here.
    """
    shape = stored.shapes.get(FIRST, (0, 4))
    inputs = shape[1] if len(shape) > 1 else 0
    if inputs not in PIPELINES:
        what = INPUTS.get(inputs, f"a model with {inputs} input channels")
        raise UnsupportedModel(
            f"{name} is {what}: it needs more than a prompt, a picture or a mask. Use the "
            "text-to-image checkpoint that it was made from."
        )
    return inputs


def _family(stored: Stored, name: str, inputs: int) -> Layout:
    """Tell the layouts apart by their text encoders."""
    if stored.has(XL_OPEN_CLIP):
        return Layout("sdxl", xl=True)
    if stored.has("conditioner.embedders.0.model."):
        raise UnsupportedModel(
            f"{name} is an SDXL refiner: it finishes pictures and knows nothing of their layout. "
            "Edit with the base model, and refine what comes out if you like."
        )
    if stored.has(OPEN_CLIP):
        return _second(stored, inputs)
    if stored.has(CLIP):
        return Layout("sd1")
    if stored.has(XL_CLIP):
        raise ModelError(f"{name} lacks SDXL's second text encoder. Use the whole checkpoint.")
    raise ModelError(
        f"{name} holds a UNet without a text encoder. Use the whole checkpoint, or a folder in "
        "diffusers layout that has all parts."
    )


def _second(stored: Stored, inputs: int) -> Layout:
    """Tell Stable Diffusion 2's two kinds apart, as far as the file says."""
    said = " ".join(
        stored.metadata.get(f"modelspec.{key}", "") for key in ("architecture", "prediction_type")
    ).split()
    if {"stable-diffusion-v2-512", "epsilon"} & set(said):
        return Layout("sd2-base", open_clip=True)
    if {"stable-diffusion-v2-768-v", "v"} & set(said):
        return Layout("sd2", open_clip=True)
    if inputs == 9:  # Stability AI's was made from the base model, which predicts noise
        return Layout("sd2-base", open_clip=True)
    note = (
        f"{str(stored.path)!r} is a Stable Diffusion 2 and does not say whether it predicts "
        "velocity (768 pixels) or noise (512 pixels). It is taken for the former; if pictures come "
        "out as stains, give --config sd2-base (config='sd2-base')."
    )
    return Layout("sd2", open_clip=True, note=note)


def _others(stored: Stored) -> Iterator[tuple[str, str, bool]]:
    """Name what a file is, if it is something else, what to do with it, and if it is of use."""
    names = stored.shapes
    if is_lora(stored):
        yield "a LoRA", "Give the model it was made for, and this with --lora (lora=).", True
    if is_embedding(stored):
        yield "a textual-inversion embedding", "Give it with --embedding (embedding=).", True
    if stored.has("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks."):
        advice = "Give the model it was made for, and this with --controlnet (controlnet=)."
        yield "a ControlNet", advice, True
    if stored.has("image_proj.", "ip_adapter."):
        yield "an IP-Adapter", "Give a plain text-to-image model.", True
    if any("motion_modules." in name for name in names):
        yield "a motion module for video", "Give a text-to-image model.", False
    if any("joint_blocks." in name for name in names):
        yield "a Stable Diffusion 3", "It has no UNet, and only UNet models can be edited.", False
    if any("double_blocks." in name or "single_transformer_blocks." in name for name in names):
        yield "a FLUX model", "It has no UNet, and only UNet models can be edited.", False
    if stored.has(UNET):
        return
    if stored.has("down_blocks.") and "conv_in.weight" in names:
        yield "a UNet in diffusers layout", "Give the folder with model_index.json instead.", True
    if stored.has("encoder.", VAE) and stored.has("decoder.", f"{VAE}decoder."):
        yield "a VAE", "Give a whole checkpoint; put this into its vae folder to use it.", True
    if stored.has("text_model.", "transformer.resblocks.", "encoder.layers."):
        yield "a text encoder", "Give a whole checkpoint, or the folder this belongs to.", True
    if stored.has("adapter.", "body.0."):
        advice = "Give the model it was made for, and this with --adapter (adapter=)."
        yield "a T2I-Adapter", advice, True


def is_lora(stored: Stored) -> bool:
    """Whether a file holds a LoRA, in the layout of diffusers, peft or Kohya."""
    marks = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up.")
    more = (".hada_w1_a", ".lokr_w1", "_lora.down.", "_lora.up.", ".oft_blocks")
    return any(mark in f"{name}." for name in stored.shapes for mark in (*marks, *more))


def is_embedding(stored: Stored) -> bool:
    """Whether a file holds the vectors of a textual inversion and nothing else."""
    few = 0 < len(stored.shapes) <= 4
    return few and all(len(shape) in (1, 2) for shape in stored.shapes.values())
