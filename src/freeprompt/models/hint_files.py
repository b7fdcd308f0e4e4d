"""Loading a ControlNet or a T2I-Adapter: as safely as a model, and fitted to one."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch

from freeprompt.errors import ConfigError, FreepromptError, ModelError, UnknownModel
from freeprompt.models.folder import check_shapes, shapes_of, weight_files
from freeprompt.models.hints import (
    CLASSES,
    TITLES,
    HintNetwork,
    Kind,
    as_network,
    check_network,
)
from freeprompt.models.ldm import Origin, adapter_origin, control_origin
from freeprompt.models.single import empty_module
from freeprompt.models.stored import Shape, Stored, open_weights

FILES = ("config.json", "diffusion_pytorch_model*.safetensors")
EDGE = "controlnet_cond_embedding."
ADAPTER_EDGE = ("adapter.conv_in.weight", "conv_in.weight")


def load_network(
    source: str | Path,
    kind: Kind,
    pipe: Any,
    *,
    variant: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
) -> HintNetwork:
    """Load a network that reads control images, in the dtype of a pipeline and where it computes.

    Args:
        source: A folder that `save_pretrained` wrote, a single file, or a Hub id.
        kind: `controlnet` or `adapter`.
        pipe: The pipeline that it is to work with.
        variant: Kind of weight files in a folder or on the Hub, such as `fp16`.
        offline: Keep to what has been downloaded before.
        allow_pickle: Read pickles, of which only tensors are taken.

    Raises:
        UnknownModel: if it is none of the three.
        ModelError: if it cannot be read, or was made for another family.
        UnsupportedModel: if it is of a class that has no place here.
    """
    name = str(source)
    path = Path(name).expanduser()
    if path.is_file():
        module = _single(open_weights(path, allow_pickle=allow_pickle), kind, pipe)
    elif path.is_dir():
        module = _from_folder(path, kind, name, variant, allow_pickle)
    elif re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        module = _from_folder(_fetched(name, offline), kind, name, variant, allow_pickle)
    else:
        raise UnknownModel(
            f"There is no {TITLES[kind]} {name!r}. Give a folder that save_pretrained() wrote, a "
            ".safetensors file, or a Hub id (owner/name)."
        )
    network = as_network(module, name)
    check_network(network, pipe.unet, getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    # not where the denoiser's weights lie: under CPU offload they wait elsewhere
    module.to(device=pipe._execution_device, dtype=pipe.unet.dtype).eval().requires_grad_(False)
    return network


def load_networks(
    pipe: Any, sources: Mapping[Kind, Sequence[str | Path]], reading: Mapping[str, Any]
) -> tuple[HintNetwork, ...]:
    """Load all networks that go with a pipeline.

    Args:
        pipe: The pipeline.
        sources: By kind, what `load_network` takes.
        reading: How files are read; `offline` and `allow_pickle` count.

    Raises:
        ConfigError: for one name where a list is expected.
        FreepromptError: as `load_network`.
    """
    how = {key: reading[key] for key in ("offline", "allow_pickle") if key in reading}
    found: list[HintNetwork] = []
    for kind, items in sources.items():
        if isinstance(items, str | Path):
            raise ConfigError(f"{kind} takes a list; got {items!r}. Write [{items!r}].")
        found += [load_network(item, kind, pipe, **how) for item in items]
    return tuple(found)


def _class(kind: Kind) -> Any:
    import diffusers

    return getattr(diffusers, next(name for name, of in CLASSES.items() if of == kind))


def _fetched(source: str, offline: bool) -> Path:
    """Return the local copy of what the Hub has."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES), local_files_only=offline))
    except Exception as error:
        raise ModelError(f"{source!r} could not be fetched from the Hub: {error}") from error


def _from_folder(
    folder: Path, kind: Kind, name: str, variant: str | None, allow_pickle: bool
) -> Any:
    cls = _class(kind)
    _check_class(folder, kind, name)
    files, _ = weight_files(folder, "unet", variant)
    if not files:
        raise ModelError(f"The folder {name!r} has no weights; {FILES[1]} is wanted.")
    try:
        if files[0].suffix == ".safetensors" or not allow_pickle:
            empty = empty_module(folder / "config.json", cls)
            check_shapes(TITLES[kind], empty, shapes_of(files))
        return cls.from_pretrained(
            folder,
            variant=variant if f".{variant}" in files[0].name else None,
            use_safetensors=None if allow_pickle else True,
            local_files_only=True,
        )
    except FreepromptError as error:
        raise ModelError(f"The {TITLES[kind]} {name!r} cannot be used: {error}") from error
    except Exception as error:  # each library on the way has errors of its own
        raise ModelError(f"The {TITLES[kind]} {name!r} cannot be read: {error}") from error


def _check_class(folder: Path, kind: Kind, name: str) -> None:
    """Check what a folder says that it holds."""
    if not (folder / "config.json").is_file():
        whole = (folder / "model_index.json").is_file()
        what = "a whole pipeline, which is given with --model" if whole else "no config.json in it"
        raise ModelError(f"The folder {name!r} is no {TITLES[kind]}: it is {what}.")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    if CLASSES.get(said) == kind:
        return
    other = CLASSES.get(said)
    advice = f"Give it with --{other} ({other}=)." if other else "It has no place here."
    raise ModelError(f"The folder {name!r} holds a {said}, not a {TITLES[kind]}. {advice}")


def _single(stored: Stored, kind: Kind, pipe: Any) -> Any:
    """Build a network from one file without a config: its anatomy follows from the denoiser's."""
    if kind == "controlnet":
        empty, places = _empty_controlnet(stored, pipe)
    else:
        empty, places = _empty_adapter(stored, pipe)
    values = {}
    for name, parameter in empty.named_parameters():
        wanted, found = tuple(parameter.shape), places[name].found(stored)
        if found is None:
            raise ModelError(
                f"{str(stored.path)!r} lacks {places[name].names[0]}, so it is no "
                f"{TITLES[kind]} for this model. It may have been made for another family."
            )
        has = places[name].shape(stored.shapes[found], len(wanted))
        if has != wanted:
            raise ModelError(
                f"{str(stored.path)!r} does not fit: {found} has the shape {list(has)}, and a "
                f"{TITLES[kind]} for this model {list(wanted)}. It was made for another family."
            )
        values[name] = places[name].value(stored.read(found), wanted).clone()
    empty.load_state_dict(values, assign=True)
    return empty


def _empty_controlnet(stored: Stored, pipe: Any) -> tuple[Any, dict[str, Origin]]:
    """Build a ControlNet on paper: a copy of the denoiser's encoder, and the image's own layers."""
    layers = list(takewhile(bool, (_edge(stored, layer) for layer in count(0, 2))))
    if not layers:
        raise ModelError(
            f"{str(stored.path)!r} is no ControlNet: nothing in it reads a control image."
        )
    with torch.device("meta"):
        empty = _class("controlnet").from_unet(
            pipe.unet,
            load_weights_from_unet=False,
            conditioning_channels=layers[0][1],
            conditioning_embedding_out_channels=tuple(shape[0] for shape in layers),
        )
    names = [name for name, _ in empty.named_parameters()]
    if stored.has(EDGE):
        return empty, {name: Origin((name,)) for name in names}
    return empty, {name: control_origin(name, empty.config) for name in names}


def _edge(stored: Stored, layer: int) -> Shape:
    """Return the shape of one of the layers that read the control image; () if there is none."""
    new = f"{EDGE}{f'blocks.{layer - 1}' if layer else 'conv_in'}.weight"
    old = f"input_hint_block.{2 * layer}.weight"
    names = (new, old, f"control_model.{old}")
    return next((stored.shapes[name] for name in names if name in stored.shapes), ())


def _empty_adapter(stored: Stored, pipe: Any) -> tuple[Any, dict[str, Origin]]:
    """Build a full T2I-Adapter on paper."""
    first = next((stored.shapes[n] for n in ADAPTER_EDGE if n in stored.shapes), ())
    if not first or any(name.endswith("out_conv.weight") for name in stored.shapes):
        raise ModelError(
            f"{str(stored.path)!r} is no full T2I-Adapter. Of other kinds (light, style) give the "
            "folder that save_pretrained() wrote, with its config."
        )
    config = pipe.unet.config
    xl = config.addition_embed_type == "text_time"
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1) * (2 if xl else 1)
    widths = list(config.block_out_channels)
    with torch.device("meta"):
        empty = _class("adapter")(
            in_channels=max(1, first[1] // factor**2),
            channels=[*widths, widths[-1]] if xl else widths,
            num_res_blocks=2,
            downscale_factor=factor,
            adapter_type="full_adapter_xl" if xl else "full_adapter",
        )
    new = stored.has("adapter.body.0.resnets.")
    names = [name for name, _ in empty.named_parameters()]
    return empty, {n: Origin((n,)) if new else adapter_origin(n, 2) for n in names}
