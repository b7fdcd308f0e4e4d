"""Loading a model from the package, a folder, a single file or the Hub."""

import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from freeprompt.core import Site
from freeprompt.errors import ConfigError, FreepromptError, ModelError, UnknownModel, unknown
from freeprompt.models.adapters import add_adapters
from freeprompt.models.brought import bring, folder_sha256
from freeprompt.models.catalog import CATALOG
from freeprompt.models.devices import resolve_device, resolve_dtype
from freeprompt.models.folder import check_filled, check_folder
from freeprompt.models.kinds import layout_of
from freeprompt.models.memory import Memory, place, ran_out
from freeprompt.models.single import config_folder, empty_part, single_pipeline
from freeprompt.models.stored import open_weights
from freeprompt.models.unet import latent_side
from freeprompt.models.walk import unet_sites

Source = str | Path | Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a model's files are read.

    Attributes:
        variant: Kind of weight files in a folder or on the Hub, such as `fp16`.
        config: For a single file: a folder with configs, or the name of one in the package.
        offline: Whether to keep to what has been downloaded before.
        allow_pickle: Whether to read pickles, of which only tensors are taken.
    """

    variant: str | None = None
    config: str | Path | None = None
    offline: bool = False
    allow_pickle: bool = False


def load_pipeline(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    variant: str | None = None,
    config: str | Path | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    memory: Memory | None = None,
) -> Any:
    """Load a diffusers pipeline.

    No code of a checkpoint is ever run. Before anything is allocated, names and shapes of all
    weights are compared with the config.

    Args:
        model: A catalogue name, a folder that diffusers' `save_pretrained` wrote, a single file in
            the original layout of SD 1, SD 2 or SDXL, or a Hub id.
        device: `auto` takes cuda, then mps, then cpu; or any torch device.
        dtype: `auto` takes float16 on cuda and float32 elsewhere; or float32, float16, bfloat16.
        variant: Kind of weight files in a folder or on the Hub, such as `fp16`.
        config: For a single file whose anatomy is its own: a folder in diffusers layout, of which
            configs and tokenizers count; or sd1, sd2, sd2-base, sdxl.
        offline: Keep to what has been downloaded before.
        allow_pickle: Read pickles (.ckpt, .bin, .pt), of which only tensors are taken.
        lora: LoRA files to add, each with its weight behind a colon (`style.safetensors:0.8`) if
            it is not 1. `lcm` is the family's own for few steps; `lcm=FILE` says that a file is
            such a one, if its header does not.
        embedding: Textual inversions to add, each with its token before an equals sign
            (`<cat>=cat.safetensors`) if it is not the one in the file.
        memory: How the pipeline is fitted into the memory there is.

    Raises:
        UnknownModel: if it is none of the four.
        ModelError: if it cannot be read or fetched; the message says why.
        ConfigError: for a device or dtype that does not exist, or an option that the model has no
            use for.
        MissingDependency: if a LoRA is given and peft is not installed, or weights are to be kept
            off the accelerator and accelerate is not.
    """
    for name, given in (("lora", lora), ("embedding", embedding)):
        if isinstance(given, str | Path):
            raise ConfigError(f"{name} takes a list of files; got {given!r}. Write [{given!r}].")
    how = Reading(variant=variant, config=config, offline=offline, allow_pickle=allow_pickle)
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    pipe = _opened(model, how, kind)
    _note(pipe, how)
    add_adapters(pipe, lora, embedding, allow_pickle, offline=offline)
    try:
        place(pipe, Memory() if memory is None else memory, where)
    except RuntimeError as error:
        advice = " What may help: --offload model (offload='model')." if ran_out(error) else ""
        raise ModelError(
            f"{str(model)!r} cannot be moved to device {where}: {error}{advice}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_sites(
    model: str | Path,
    *,
    config: str | Path | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
) -> tuple[tuple[Site, ...], int]:
    """Return a model's sites and the side of its latents, without loading any weights.

    Args:
        model: As for `load_pipeline`.
        config: Likewise.
        offline: Likewise.
        allow_pickle: Likewise.

    Raises:
        UnknownModel: if it is no catalogue name, folder, file or Hub id.
        ConfigError: if a config is given that would not be read.
        ModelError: if its config cannot be read or fetched.
    """
    from diffusers import UNet2DConditionModel

    source = find(str(model))
    single = isinstance(source, Path) and source.is_file()
    if config is not None and not single:
        raise _own_config(model)
    if callable(source):
        unet = source().unet
    elif isinstance(source, Path) and single:
        layout = layout_of(open_weights(source, allow_pickle=allow_pickle))
        unet = empty_part(config_folder(layout.config if config is None else config), "unet")
    else:
        try:
            with _quiet():
                read = UNet2DConditionModel.load_config(
                    source, subfolder="unet", local_files_only=offline
                )
            with torch.device("meta"):
                unet = UNet2DConditionModel.from_config(read)
        except Exception as error:
            raise _unreadable(source, error) from error
    return unet_sites(unet), latent_side(unet.config)


def _own_config(model: str | Path) -> ConfigError:
    return ConfigError(
        f"config goes with a single file, which holds none; {str(model)!r} brings its own. "
        "Leave it out."
    )


def find(model: str) -> Source:
    """Return where a model is: a function, a folder or file, or a Hub id.

    Raises:
        UnknownModel: if it is nowhere.
        ModelError: if it is a folder that holds no pipeline, or missing from the package.
    """
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
                "Give the folder that save_pretrained() wrote, or a single .safetensors file."
            )
        return path
    if is_there:
        return path
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        return model
    known = unknown(UnknownModel, "model", model, CATALOG)
    raise UnknownModel(
        f"{known} A folder in diffusers layout, a .safetensors file or a Hub id (owner/name) will "
        "do as well."
    )


def _note(pipe: Any, how: Reading) -> None:
    """Remember what another reading would need to be the same."""
    if how.variant is not None:
        bring(pipe, "variant", {"name": how.variant})
    if how.config is not None:
        folder = Path(how.config)
        contents = {"sha256": folder_sha256(folder)} if folder.is_dir() else {}
        bring(pipe, "config", {"name": str(how.config), **contents})


def _opened(model: str | Path, how: Reading, dtype: torch.dtype) -> Any:
    """Return the pipeline, on the CPU."""
    source = find(str(model))
    single = isinstance(source, Path) and source.is_file()
    if how.config is not None and not single:
        raise _own_config(model)
    if how.variant is not None and (single or callable(source)):
        raise ConfigError(
            f"variant {how.variant!r} chooses among the weight files of a folder or a Hub id; "
            f"{str(model)!r} has no other. Leave it out."
        )
    if callable(source):
        return source().to(dtype=dtype)
    if single:
        stored = open_weights(source, allow_pickle=how.allow_pickle)
        return single_pipeline(stored, dtype=dtype, config=how.config)
    variant = how.variant
    if variant is None and str(model) in CATALOG:
        variant = CATALOG[str(model)].variant
    return _from_folder(source, how, variant, dtype)


def _from_folder(source: str | Path, how: Reading, variant: str | None, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    safe = None if how.allow_pickle else True
    try:
        with _quiet():
            folder = source if isinstance(source, Path) else _fetched(source, how, variant)
            check_folder(folder, variant, how.allow_pickle)
            pipe = DiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=safe, variant=variant, local_files_only=True
            )
            check_filled(pipe, folder, variant)
            return pipe
    except Exception as error:
        raise _unreadable(source, error) from error


def _fetched(source: str, how: Reading, variant: str | None) -> Path:
    """Return the local copy of what the Hub has, downloaded if it has to be."""
    from diffusers import DiffusionPipeline

    safe = None if how.allow_pickle else True
    return Path(
        DiffusionPipeline.download(
            source, variant=variant, use_safetensors=safe, local_files_only=how.offline
        )
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars off what is no terminal, and what users cannot act on off the rest."""
    from diffusers.utils import logging

    bars = sys.stderr.isatty()
    try:
        if not bars:
            logging.disable_progress_bar()
        with warnings.catch_warnings():
            # diffusers 0.42 hands huggingface_hub an argument that the latter warns of
            warnings.filterwarnings("ignore", ".*local_dir_use_symlinks", UserWarning)
            yield
    finally:
        if not bars:
            logging.enable_progress_bar()


def _unreadable(source: str | Path | Any, error: Exception) -> ModelError:
    where = "read from that folder" if isinstance(source, Path) else "fetched from the Hub"
    reason = textwrap.shorten(str(error), 400, placeholder=" ...").rstrip(".")
    ours = isinstance(error, FreepromptError)
    advice = "" if ours else " freeprompt reads safetensors weights in diffusers layout."
    return ModelError(f"The model {str(source)!r} could not be {where}: {reason}.{advice}")
