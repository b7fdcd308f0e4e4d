"""Weights in a file: names and shapes first, tensors one at a time, code never."""

import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from freeprompt.errors import ModelError

Shape = tuple[int, ...]
PICKLED = "--allow-pickle (allow_pickle=True)"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The weights in a file; nothing but names and shapes has been read.

    Attributes:
        path: The file.
        shapes: Shape of each tensor by name.
        metadata: What the file says of itself, by keyword.
        read: Returns one tensor by its name, on the CPU.
    """

    path: Path
    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], Tensor] = field(repr=False)

    def has(self, *starts: str) -> bool:
        """Whether a name begins with one of these."""
        return any(name.startswith(starts) for name in self.shapes)


def open_weights(path: str | Path, *, allow_pickle: bool = False) -> Stored:
    """Read the names and shapes of the tensors in a file.

    What a file is, is told by its first bytes and not by its name.

    Args:
        path: A safetensors file, or a pickle if they are allowed.
        allow_pickle: Whether to read pickles: their tensors alone, with `weights_only=True`.

    Raises:
        ModelError: if it is a pickle and they are not allowed, if it is damaged, or if it holds
            more (or less) than tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _pickled(path, allow_pickle)
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{str(path)!r} is a pointer that Git left in the place of the file. Fetch the file "
            "itself with git lfs pull."
        )
    if start[8:9] != b"{":
        raise ModelError(
            f"{str(path)!r} holds no weights: neither safetensors nor a PyTorch pickle begins with "
            f"{start[:9]!r}. The download may have failed, or it is a page instead of a file."
        )
    return _safetensors(path)


def _safetensors(path: Path) -> Stored:
    try:
        file: Any = safe_open(path, framework="pt")  # stays open, mapped, while it is read
        metadata = file.metadata() or {}
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{str(path)!r} is damaged: {_said(error)}. What its header announces is not what the "
            "file holds; fetch it again."
        ) from error
    return Stored(path=path, shapes=shapes, metadata=metadata, read=file.get_tensor)


def _pickled(path: Path, allowed: bool) -> Stored:
    if not allowed:
        raise ModelError(
            f"{str(path)!r} is a pickle (.ckpt, .bin, .pt), and reading one can run any code that "
            "its maker put in. Get the .safetensors file of the same model; or, if you trust it, "
            f"{PICKLED}, which reads its tensors alone."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols, which may hold tensors as well
            found = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        # torch advises to read it without this protection, which is not to be passed on
        raise ModelError(
            f"{str(path)!r} cannot be read as tensors alone: it is damaged, or it holds objects of "
            "other kinds, which could run code. Convert it to .safetensors where you trust it."
        ) from error
    tensors = _tensors(found)
    if not tensors:
        raise ModelError(f"{str(path)!r} holds no tensors by name, so it is no checkpoint.")
    return Stored(
        path=path,
        shapes={name: tuple(value.shape) for name, value in tensors.items()},
        read=tensors.__getitem__,
    )


def _tensors(found: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; many keep them under a name of their own."""
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if isinstance(found, dict) and isinstance(found.get("string_to_param"), dict):
        found = {"emb_params": found["string_to_param"].get("*")}  # a textual inversion
    items = found.items() if isinstance(found, dict) else ()
    return {str(name): value for name, value in items if isinstance(value, Tensor)}


def _said(error: Exception) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(".")
