"""LoRAs that were distilled to few steps (LCM): by name, and what a pipeline needs with them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from freeprompt.errors import ConfigError, ModelError
from freeprompt.models.catalog import CATALOG
from freeprompt.models.places import WEIGHTS
from freeprompt.models.stored import open_weights

NAME = "lcm"
MARK = "distilled"  # key in the header of a file, beside its tensors
OURS = WEIGHTS / "emoji-sd-lcm.safetensors"
ON_THE_HUB = {
    "sd1": "latent-consistency/lcm-lora-sdv1-5",
    "sdxl": "latent-consistency/lcm-lora-sdxl",
}
HUB_FILE = "pytorch_lora_weights.safetensors"


def plain_items(pipe: Any, items: Sequence[str | Path], offline: bool) -> tuple[list[str], bool]:
    """Turn names of distilled LoRAs into files.

    Args:
        pipe: The pipeline that they are for.
        items: LoRAs as the user gives them: `lcm` is the family's own, `lcm=FILE` says of a file
            that it is one; each may have its weight behind a colon.
        offline: Whether to keep to what has been downloaded before.

    Returns:
        The same as `FILE` or `FILE:WEIGHT`, and whether one of them is distilled.

    Raises:
        ConfigError: if there is none for this pipeline.
        ModelError: if it cannot be fetched.
    """
    plain, found = [], False
    for item in map(str, items):
        name, colon, weight = item.partition(":")
        if name == NAME and not Path(item).exists():
            plain.append(f"{_own(pipe, offline)}{colon}{weight}")
            found = True
        elif item.startswith(f"{NAME}=") and not Path(item).exists():
            plain.append(item.removeprefix(f"{NAME}="))
            found = True
        else:
            plain.append(item)
    return plain, found


def says_so(file: str, allow_pickle: bool) -> bool:
    """Whether a file says of itself that it is distilled, as those of `freeprompt train lcm` do."""
    return MARK in open_weights(file, allow_pickle=allow_pickle).metadata


def begin_at_noise(pipe: Any) -> Callable[[], None]:
    """Give a pipeline LCM's scheduler, by which few steps begin at pure noise; return the undo.

    It is read for its noise levels and for where steps lie; in the plain pipeline it samples too.
    """
    from diffusers import LCMScheduler

    known = pipe.scheduler
    pipe.scheduler = LCMScheduler.from_config(known.config)

    def back() -> None:
        pipe.scheduler = known

    return back


def _own(pipe: Any, offline: bool) -> str:
    """Return the file of the LoRA that belongs to a pipeline."""
    known = str(getattr(pipe, "name_or_path", "") or "")
    if known == str(CATALOG["emoji-sd"].source):
        return str(OURS)
    xl = getattr(pipe, "text_encoder_2", None) is not None
    width = pipe.unet.config.cross_attention_dim
    family = "sdxl" if xl else {768: "sd1"}.get(width)
    if family is None:
        raise ConfigError(
            f"There is no LoRA {NAME!r} for {known or type(pipe).__name__!r}: those known are for "
            "emoji-sd, Stable Diffusion 1 and SDXL. Give the file of one as lcm=FILE, or make one "
            "with `freeprompt train lcm`."
        )
    return _fetched(ON_THE_HUB[family], offline)


def _fetched(repository: str, offline: bool) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(repository, HUB_FILE, local_files_only=offline))
    except Exception as error:  # the network's, the Hub's and the cache's have no common base
        raise ModelError(
            f"The LoRA {NAME!r} could not be fetched from {repository!r}: {error}. Give a file of "
            "it as lcm=FILE."
        ) from error
