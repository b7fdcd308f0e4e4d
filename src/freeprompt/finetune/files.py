"""Trained weights as files, whole or not at all, with what they were made from in their heads."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from freeprompt.errors import ConfigError
from freeprompt.images import write_whole

SUFFIX = ".safetensors"
ABOUT = "freeprompt"


def check_out(out: str | Path) -> Path:
    """Return where the result goes.

    Raises:
        ConfigError: if it is not named as a .safetensors file.
    """
    path = Path(out)
    if path.suffix.lower() != SUFFIX or path.is_dir():
        raise ConfigError(f"The result is one {SUFFIX} file; got {str(out)!r}.")
    return path


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Write tensors with a record of how they were made; return the file's sha256.

    Args:
        path: The file.
        tensors: Its tensors.
        about: The record.

    Raises:
        SaveError: if it cannot be written.
    """
    plain = {name: x.detach().float().cpu().contiguous() for name, x in tensors.items()}
    head = {"format": "pt", ABOUT: json.dumps(about, sort_keys=True)}
    content = _ordered(save(plain, head))
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file with its texts in order; the library writes them in any."""
    length = int.from_bytes(content[:8], "little")
    head, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data
