"""CLIP and DINO, which measure pictures, from a folder or the Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from freeprompt.errors import ModelError


def load_clip(where: str | Path, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """Load a CLIP model with its tokenizer, in float32.

    Args:
        where: A folder in transformers layout, or a Hub id such as openai/clip-vit-large-patch14.
        device: Where it shall compute.

    Returns:
        A `CLIPModel` and its tokenizer.

    Raises:
        ModelError: if it cannot be read or fetched, or is no CLIP.
    """
    from transformers import CLIPModel, CLIPTokenizer

    tokenizer = _loaded("CLIP", where, CLIPTokenizer.from_pretrained)
    return _network("CLIP", where, CLIPModel, device), tokenizer


def load_vit(where: str | Path, device: torch.device | str = "cpu") -> Any:
    """Load a vision transformer, in float32.

    Args:
        where: A folder in transformers layout, or a Hub id such as facebook/dino-vitb8.
        device: Where it shall compute.

    Returns:
        A `ViTModel` without its pooling layer.

    Raises:
        ModelError: if it cannot be read or fetched.
    """
    from transformers import ViTModel

    return _network("DINO", where, ViTModel, device, add_pooling_layer=False)


def _network(what: str, where: str | Path, kind: Any, device: Any, **options: Any) -> Any:
    model = _loaded(what, where, kind.from_pretrained, dtype=torch.float32, **options)
    return model.to(device).eval().requires_grad_(False)


def _loaded(
    what: str, where: str | Path, from_pretrained: Callable[..., Any], **options: Any
) -> Any:
    folder = Path(where)
    try:
        return from_pretrained(str(where), local_files_only=folder.is_dir(), **options)
    except Exception as error:  # each library on the way has errors of its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{what} weights cannot be loaded from {str(where)!r} ({reason}). Allowed: a folder "
            "in transformers layout, or a Hub id that can be reached or has been downloaded."
        ) from error
