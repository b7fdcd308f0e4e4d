"""Which adapter a pipeline gets."""

from typing import Any

from freeprompt.core import DDIM
from freeprompt.errors import UnsupportedModel
from freeprompt.models.hints import HintNetwork, as_network, check_network
from freeprompt.models.sdxl import SDXLModel
from freeprompt.models.unet import TAKES, UNetModel


def adapt(pipe: Any, name: str) -> UNetModel:
    """Wrap a diffusers pipeline in the adapter of its family.

    Args:
        pipe: A loaded pipeline.
        name: How messages and provenance call it.

    Raises:
        UnsupportedModel: if the family has no adapter; the message says which parts it looked at.
        ConfigError: if its scheduler cannot be converted to DDIM.
    """
    kind = type(pipe).__name__
    if getattr(pipe, "text_encoder_2", None) is not None and pipe.text_encoder is None:
        raise UnsupportedModel(
            f"{name!r} is an SDXL refiner ({kind}): it finishes pictures and knows nothing of "
            "their layout. Edit with the base model, and refine what comes out if you like."
        )
    missing = [
        part
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        if getattr(pipe, part, None) is None
    ]
    if missing:
        raise UnsupportedModel(
            f"{name!r} is a {kind} without {', '.join(missing)}. freeprompt edits with UNet models "
            "of the Stable Diffusion 1.x, 2.x and XL families."
        )
    config = pipe.unet.config
    second = getattr(pipe, "text_encoder_2", None)
    xl = second is not None or config.addition_embed_type is not None
    if xl:
        _check_xl(pipe, name, kind)
    if config.encoder_hid_dim_type:
        raise UnsupportedModel(
            f"{name!r} is a {kind} with an IP-Adapter, whose image an edit would leave out without "
            "a word. Use the plain text-to-image pipeline."
        )
    _check_channels(pipe, name)
    DDIM.from_config(pipe.scheduler.config, 1)  # read once here: what cannot be used is told now
    model = SDXLModel(pipe, name) if xl else UNetModel(pipe, name)
    model.networks = networks_of(pipe, name)
    return model


def networks_of(pipe: Any, name: str) -> tuple[HintNetwork, ...]:
    """Return the ControlNets and T2I-Adapters that a pipeline has.

    Raises:
        UnsupportedModel: for one of another kind.
        ModelError: for one that was made for another family.
    """
    found: list[HintNetwork] = []
    for part, inside in (("controlnet", "nets"), ("adapter", "adapters")):
        module = getattr(pipe, part, None)
        modules = () if module is None else getattr(module, inside, (module,))
        found += [as_network(one) for one in modules]
    for network in found:
        check_network(network, pipe.unet, name)
    return tuple(found)


def _check_channels(pipe: Any, name: str) -> None:
    """Refuse networks that take something which is not given to them here."""
    config, channels = pipe.unet.config, pipe.vae.config.latent_channels
    if config.in_channels - channels not in TAKES or config.out_channels != channels:
        raise UnsupportedModel(
            f"{name!r} takes {config.in_channels} input channels where its VAE makes {channels}: "
            "a depth or upscaling model, or another one that needs more than text. Use the "
            "text-to-image checkpoint it was made from."
        )


def _check_xl(pipe: Any, name: str, kind: str) -> None:
    """Refuse what resembles SDXL and is not its base model."""
    if pipe.unet.config.addition_embed_type != "text_time":
        raise UnsupportedModel(
            f"{name!r} is a {kind} whose UNet has the extra condition "
            f"{pipe.unet.config.addition_embed_type!r}. Of such models only SDXL's base "
            "('text_time') has an adapter."
        )
    if getattr(pipe, "text_encoder_2", None) is None or getattr(pipe, "tokenizer_2", None) is None:
        raise UnsupportedModel(
            f"{name!r} is a {kind} without its second text encoder and tokenizer. Use the whole "
            "SDXL base checkpoint."
        )
