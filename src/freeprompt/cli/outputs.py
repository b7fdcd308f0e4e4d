"""Where results may go, checked before any work is done."""

import os
from collections.abc import Sequence
from pathlib import Path

from freeprompt.errors import ConfigError, SaveError


def check_out(out: str, targets: int, *inputs: str | None) -> None:
    """Check that the pictures of an edit can go to a folder, or a single one to a file.

    Args:
        out: What -o says.
        targets: Number of pictures.
        *inputs: Files that are read.

    Raises:
        ConfigError: if they would replace the input, or do not fit.
        SaveError: if nothing can be written there.
    """
    from freeprompt.api.result import check_kind

    path = Path(out)
    _check_spared("-o", out, inputs)
    if path.suffix.lower() == ".png":
        if targets > 1:
            raise ConfigError(
                f"{targets} targets do not fit into one file ({out!r}): give a folder."
            )
    elif path.exists() and not path.is_dir():
        raise ConfigError(f"-o {out!r} is a file that is no .png. Give a folder or a .png name.")
    check_kind(path)
    _check_parent(out)


def check_file(option: str, name: str | None, *inputs: str | None) -> None:
    """Check that one file can be written.

    Args:
        option: What names it, such as `--film`.
        name: Its name; None, a file that is not wanted, passes.
        *inputs: Files that are read.

    Raises:
        ConfigError: if it would replace the input, or is a folder.
        SaveError: if nothing can be written there.
    """
    if name is None:
        return
    _check_spared(option, name, inputs)
    if Path(name).is_dir():
        raise ConfigError(f"{option} {name!r} is a folder. Give the name of a file.")
    _check_parent(name)


def _check_spared(option: str, out: str, inputs: Sequence[str | None]) -> None:
    """Refuse an input as output, and names that no file can have."""
    path = Path(out)
    try:
        read = [Path(name) for name in inputs if name is not None] if path.exists() else []
        same = any(name.exists() and path.samefile(name) for name in read)
    except OSError as error:
        raise ConfigError(f"{option} {out!r} cannot be a file name: {error.strerror}.") from error
    if same:
        raise ConfigError(f"{option} {out!r} is the input image itself. Choose another name.")


def _check_parent(out: str) -> None:
    """Refuse what lies below a file, or in a folder that may not be written to."""
    path = Path(out)
    parent = next(p for p in (path, *path.absolute().parents) if p.is_dir() or p.is_file())
    if parent != path and not parent.is_dir():
        raise SaveError(f"{out!r} could not be written: {str(parent)!r} is a file, not a folder.")
    folder = parent if parent.is_dir() else parent.absolute().parent
    if not os.access(folder, os.W_OK):
        raise SaveError(
            f"{out!r} could not be written: the folder {str(folder)!r} may not be written to. "
            "Choose another place."
        )
