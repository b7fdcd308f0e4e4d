"""Where a model computes, and in what precision."""

from typing import Literal

import torch

from freeprompt.errors import ConfigError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DTypeName = Literal["auto", "float32", "float16", "bfloat16"]


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
