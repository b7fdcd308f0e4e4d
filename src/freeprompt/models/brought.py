"""What was brought to a model beside its own weights, remembered for provenance."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

Item = Mapping[str, Any]

# by the denoiser, which pipelines made of one another (`from_pipe`) share
_brought: "WeakKeyDictionary[Any, list[tuple[str, Item]]]" = WeakKeyDictionary()


def bring(pipe: Any, kind: str, item: Item) -> Callable[[], None]:
    """Remember something that was brought; return what forgets it.

    Args:
        pipe: The pipeline.
        kind: `lora`, `embedding`, `variant` or `config`.
        item: JSON types, such as file, sha256, weight and token.
    """
    known = _brought.setdefault(_denoiser(pipe), [])
    entry = (kind, dict(item))
    known.append(entry)
    return lambda: known.remove(entry)


def brought(pipe: Any) -> dict[str, list[dict[str, Any]]]:
    """Return what has been brought to a pipeline, by kind and in order; empty for nothing."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, item in _brought.get(_denoiser(pipe), []):
        found.setdefault(kind, []).append(dict(item))
    return found


def file_sha256(path: str | Path) -> str:
    """Return the hash of a file's contents."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(path: str | Path) -> str:
    """Return one hash over names and contents of all files in a folder but weights."""
    digest, folder = hashlib.sha256(), Path(path)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in {".json", ".txt", ".model"}:
            digest.update(f"{file.relative_to(folder).as_posix()}:{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _denoiser(pipe: Any) -> Any:
    return getattr(pipe.unet, "_orig_mod", pipe.unet)
