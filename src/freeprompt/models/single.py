"""A pipeline from one file in an original layout, checked whole before anything is allocated."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from freeprompt.core import DDIM
from freeprompt.errors import ConfigError, FreepromptWarning, ModelError
from freeprompt.models.clip_words import clip_tokenizer
from freeprompt.models.kinds import Layout, layout_of
from freeprompt.models.ldm import Origin, origin
from freeprompt.models.places import CONFIGS
from freeprompt.models.stored import Shape, Stored

PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
}
DEEPEST = 128  # layers of anything; SDXL's largest encoder has 32


@dataclass(frozen=True)
class _Weight:
    """One weight of a part: where it lies, and the shape that the config gives it."""

    name: str
    origin: Origin
    shape: Shape


def single_pipeline(
    stored: Stored, *, dtype: torch.dtype = torch.float32, config: str | Path | None = None
) -> Any:
    """Build the pipeline of a single-file checkpoint.

    Args:
        stored: The opened file.
        dtype: What the weights are kept in.
        config: A folder in diffusers layout, of which the configs and the tokenizer count, or the
            name of one in the package; None for the one that belongs to the file's layout.

    Raises:
        UnsupportedModel: if the file is a model that cannot be edited with.
        ModelError: if the file is no whole model, or does not fit the config.
        ConfigError: if there is no such config.

    Warns:
        FreepromptWarning: if the file does not say what had to be known.
    """
    import diffusers

    layout = layout_of(stored)
    folder = config_folder(layout.config if config is None else config)
    names = [part for part in PARTS if layout.xl or part != "text_encoder_2"]
    changes: dict[str, dict[str, Any]] = {"unet": {"in_channels": layout.inputs}}
    empty = {name: empty_part(folder, name, **changes.get(name, {})) for name in names}
    plan = {name: _weights(name, module, layout) for name, module in empty.items()}
    for name, weights in plan.items():
        _check(stored, name, weights, folder)
    if layout.note and config is None:
        warnings.warn(layout.note, FreepromptWarning, stacklevel=2)
    parts = {name: _filled(empty[name], plan[name], stored, dtype) for name in names}
    parts["tokenizer"] = _tokenizer(folder, "tokenizer", "!" if layout.open_clip else None)
    parts["scheduler"] = _scheduler(folder, stored)
    kind: Any = getattr(diffusers, layout.pipeline)
    if layout.xl:
        parts["tokenizer_2"] = _tokenizer(folder, "tokenizer_2", "!")
        return kind(**parts, add_watermarker=False, **_said(folder))
    return kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def config_folder(config: str | Path) -> Path:
    """Return a folder of configs: one of the package by its name, or the user's own.

    Raises:
        ConfigError: if it is neither.
    """
    known = sorted(path.parent.name for path in CONFIGS.glob("*/model_index.json"))
    if str(config) in known:
        return CONFIGS / str(config)
    folder = Path(config).expanduser()
    if not (folder / "unet" / "config.json").is_file():
        raise ConfigError(
            f"config {str(config)!r} is neither {', '.join(known)} nor a folder with "
            "unet/config.json in it."
        )
    return folder


def empty_part(folder: Path, part: str, **changes: Any) -> Any:
    """Build a part from its config without any memory.

    Args:
        folder: A folder in diffusers layout.
        part: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
        changes: What counts in the place of the config's own entries.

    Raises:
        ModelError: if the config cannot be read or describes no such module.
    """
    import diffusers
    import transformers

    library, name = PARTS[part]
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    return empty_module(folder / part / "config.json", kind, **changes)


def empty_module(path: Path, kind: Any, **changes: Any) -> Any:
    """Build a module of a class from its config file, and changes to it, without any memory.

    Raises:
        ModelError: if the config cannot be read or describes no such module.
    """
    try:
        config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        _check_depth(config)
        with torch.device("meta"):
            if hasattr(kind, "from_config"):
                return kind.from_config(config)
            return kind(kind.config_class.from_dict(config))
    except Exception as error:  # whatever a library makes of a config that makes no sense
        raise ModelError(f"{str(path)!r} is not a config of {kind.__name__}: {error}") from error


def _check_depth(config: Any) -> None:
    """Refuse numbers of layers that would take minutes to build, if only on paper."""
    for name, value in config.items():
        deep = re.search(r"layers|_types$", name) is not None
        sizes = value if isinstance(value, list) else [value]
        counts = [size for size in sizes if isinstance(size, int)] + [len(sizes)]
        if deep and max(counts) > DEEPEST:
            raise ValueError(f"{name} asks for {max(counts)} layers")


def _weights(part: str, module: Any, layout: Layout) -> list[_Weight]:
    """Return every weight of a part with its place in the file."""
    config = getattr(module, "config", {})
    settings: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    return [
        _Weight(
            name,
            origin(part, name, settings, xl=layout.xl, open_clip=layout.open_clip),
            tuple(value.shape),
        )
        for name, value in module.named_parameters()
    ]


def _check(stored: Stored, part: str, weights: list[_Weight], folder: Path) -> None:
    """Check that a file has all weights of a part, in the shapes that its config gives them.

    Raises:
        ModelError: naming the first one that is missing, or has another shape.
    """
    for weight, has in _differing(stored, weights):
        raise ModelError(
            f"{str(stored.path)!r} does not fit the config {str(folder.name)!r}: "
            f"{weight.origin.found(stored)} is for a weight of shape {list(has)}, and "
            f"{part} there has {list(weight.shape)}. If the model has an anatomy of its own, give "
            "its configs with --config FOLDER (config=)."
        )
    lost = [weight for weight in weights if weight.origin.found(stored) is None]
    if lost:
        raise ModelError(
            f"{str(stored.path)!r} lacks {len(lost)} of the {len(weights)} weights of its {part}, "
            f"such as {lost[0].origin.names[0]}. Use the whole checkpoint: pruned files and those "
            "without a VAE do not suffice."
        )


def _differing(stored: Stored, weights: list[_Weight]) -> Iterator[tuple[_Weight, Shape]]:
    """Return the weights that are there in another shape, each with that shape."""
    for weight in weights:
        name = weight.origin.found(stored)
        if name is not None:
            has = weight.origin.shape(stored.shapes[name], len(weight.shape))
            if has != weight.shape:
                yield weight, has


def _filled(module: Any, weights: list[_Weight], stored: Stored, dtype: torch.dtype) -> Any:
    """Give a part its weights, one after the other, in `dtype`."""
    values = {}
    for weight in weights:
        tensor = stored.read(str(weight.origin.found(stored)))
        value = weight.origin.value(tensor, weight.shape).to(dtype)
        # a file's weights lie askew in memory, where some kernels round in another way
        values[weight.name] = value.clone() if value.data_ptr() % 64 else value
    module.load_state_dict(values, assign=True, strict=False)
    _give_buffers(module)
    return module.eval().requires_grad_(False)


def _give_buffers(module: Any) -> None:
    """Make the buffers that files do not hold: the numbers of the tokens' places."""
    for owner in module.modules():
        for name, value in list(owner.named_buffers(recurse=False)):
            if value.is_meta:
                assert name == "position_ids", name
                places = torch.arange(value.shape[-1]).expand(value.shape)
                owner.register_buffer(name, places, persistent=False)


def _tokenizer(folder: Path, part: str, pad: str | None) -> Any:
    from transformers import CLIPTokenizer

    files = ("vocab.json", "tokenizer.json")
    if any((folder / part / name).is_file() for name in files):
        return CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
    return clip_tokenizer() if pad is None else clip_tokenizer(pad)


def _scheduler(folder: Path, stored: Stored) -> Any:
    """Return the config's scheduler, with what the file's marks say of the prediction."""
    import diffusers

    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    DDIM.from_config(config, 1)  # refuses what cannot be edited with
    if "v_pred" in stored.shapes:
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in stored.shapes:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise ModelError(f"{str(path)!r} is not the config of a scheduler.")
    return kind.from_config(config)


def _said(folder: Path) -> dict[str, Any]:
    """Return what a pipeline's index says beside its parts."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    zeros = index.get("force_zeros_for_empty_prompt", True)
    return {"force_zeros_for_empty_prompt": zeros}
