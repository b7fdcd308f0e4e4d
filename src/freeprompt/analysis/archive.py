"""Attention maps to a file and back: safetensors or npz, with all that is needed to draw them."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save as to_safetensors

from freeprompt.analysis.maps import AttentionMaps, CrossMaps, SiteMaps
from freeprompt.analysis.self_maps import SelfMaps
from freeprompt.core import Site
from freeprompt.errors import ConfigError
from freeprompt.images import write_whole

FORMAT = "freeprompt attention 1"
SUFFIXES = (".safetensors", ".npz")
Arrays = dict[str, np.ndarray[Any, Any]]


def check_suffix(path: str | Path) -> None:
    """Refuse a file name that says another format.

    Raises:
        ConfigError: for any suffix but `.safetensors` and `.npz`.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"Maps are saved as .safetensors or .npz; got {str(path)!r}. Change the suffix."
        )


def save(maps: AttentionMaps, path: str | Path) -> Path:
    """Write maps; see `AttentionMaps.save`."""
    path = Path(path)
    check_suffix(path)
    arrays: Arrays = {}
    described = [_pack(one, f"{i}", arrays) for i, one in enumerate(maps.pictures)]
    text = json.dumps(described, ensure_ascii=False)
    if path.suffix.lower() == ".safetensors":
        content = to_safetensors(arrays, metadata={"format": FORMAT, "pictures": text})
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, format=np.array(FORMAT), pictures=np.array(text), **arrays)  # type: ignore[arg-type]
        content = buffer.getvalue()
    write_whole(path, content)
    return path


def load(path: str | Path) -> AttentionMaps:
    """Read maps; see `AttentionMaps.load`."""
    check_suffix(path)
    try:
        described, arrays = _read(Path(path))
        first, *targets = [_unpack(one, str(i), arrays) for i, one in enumerate(described)]
    except Exception as error:
        raise ConfigError(f"{str(path)!r} holds no saved attention maps: {error}") from error
    return AttentionMaps(**{**vars(first), "targets": tuple(targets)})


def _read(path: Path) -> tuple[list[dict[str, Any]], Arrays]:
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(str(arrays.pop("pictures"))), arrays
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        return json.loads(file.metadata()["pictures"]), {n: file.get_tensor(n) for n in names}


def _pack(maps: AttentionMaps, prefix: str, arrays: Arrays) -> dict[str, Any]:
    arrays[f"{prefix}/image"] = np.array(maps.image.convert("RGB"))
    kinds = {"cross": maps.cross_maps, "self": maps.self_maps}
    return {
        "prompt": maps.prompt,
        "role": maps.role,
        "settings": dict(maps.settings),
        **{k: _pack_sites(m, f"{prefix}/{k}", arrays) for k, m in kinds.items() if m is not None},
    }


def _pack_sites(maps: SiteMaps, prefix: str, arrays: Arrays) -> dict[str, Any]:
    for site, array in zip(maps.sites, maps.arrays, strict=True):
        arrays[f"{prefix}/{site.name}"] = np.ascontiguousarray(array)
    words = {"words": list(maps.words)} if isinstance(maps, CrossMaps) else {}
    return {
        "sites": [asdict(site) for site in maps.sites],
        "axes": [axis for axis in maps.axes if axis != "site"],
        "grids": [list(grid) for grid in maps.grids],
        "steps": list(maps.steps),
        "by_step": maps.by_step,
        "by_head": maps.by_head,
        **words,
    }


def _unpack(told: Mapping[str, Any], prefix: str, arrays: Arrays) -> AttentionMaps:
    cross, own = told.get("cross"), told.get("self")
    return AttentionMaps(
        prompt=told["prompt"],
        role=told["role"],
        settings=told["settings"],
        image=Image.fromarray(arrays[f"{prefix}/image"]),
        cross_maps=CrossMaps(
            words=tuple(cross["words"]), **_unpack_sites(cross, f"{prefix}/cross", arrays)
        )
        if cross
        else None,
        self_maps=SelfMaps(**_unpack_sites(own, f"{prefix}/self", arrays)) if own else None,
    )


def _unpack_sites(told: Mapping[str, Any], prefix: str, arrays: Arrays) -> dict[str, Any]:
    sites = tuple(Site(**site) for site in told["sites"])
    return {
        "sites": sites,
        "grids": tuple((height, width) for height, width in told["grids"]),
        "arrays": tuple(arrays[f"{prefix}/{site.name}"] for site in sites),
        "steps": tuple(told["steps"]),
        "by_step": told["by_step"],
        "by_head": told["by_head"],
    }
