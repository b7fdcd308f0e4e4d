"""An inverted image as one file: invert once, edit today and tomorrow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from freeprompt.api.source import InvertedImage
from freeprompt.core import Tape, Trajectory
from freeprompt.core.tape import TapeKey
from freeprompt.errors import ConfigError
from freeprompt.images import write_whole
from freeprompt.inversion import INVERSIONS
from freeprompt.models import UNetModel
from freeprompt.models.fingerprint import fingerprint
from freeprompt.picture import Picture

SUFFIX = ".safetensors"
TAPE = "tape/"


def is_saved(image: Any) -> bool:
    """Return whether an image argument names a saved inversion."""
    return isinstance(image, str | Path) and Path(image).suffix.lower() == SUFFIX


def check_name(path: str | Path) -> None:
    """Check that a file is named as one that holds an inversion.

    Raises:
        ConfigError: if it does not end in .safetensors.
    """
    if not is_saved(path):
        raise ConfigError(f"An inversion is saved as a {SUFFIX} file; got {str(path)!r}.")


def save_inverted(inverted: InvertedImage, path: str | Path) -> None:
    """Write an inverted image as safetensors, whole or not at all.

    Raises:
        ConfigError: if the name does not end in .safetensors, or nothing was inverted.
        SaveError: if it cannot be written.
    """
    check_name(path)
    if inverted.inversion is None:
        raise ConfigError("This image was prepared without an inversion: there is nothing to save.")
    tensors, meta = inverted.trajectory.pack()
    tensors["picture"] = torch.from_numpy(np.array(inverted.picture.image))
    if inverted.tape is not None:
        tensors |= {f"{TAPE}{key}": x for key, x in inverted.tape.tensors.items()}
    about = {
        "name": inverted.picture.name,
        "sha256": inverted.picture.sha256,
        "notes": inverted.picture.notes,
        "size": inverted.size,
        "model": inverted.model.name,
        "fingerprint": fingerprint(inverted.model.pipe),
        "inversion": INVERSIONS.name_of(inverted.inversion),
        "parameters": inverted.inversion.to_dict(),
        "control": inverted.control,
    }
    packed = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    write_whole(path, to_bytes(packed, {**meta, "image": json.dumps(about)}))


def about_saved(path: str | Path) -> dict[str, Any]:
    """Return what a saved inversion says of itself, without reading its tensors.

    Raises:
        ConfigError: if the file is missing or is no saved inversion.
    """
    about: dict[str, Any] = _read(path, ())[1]
    return about


def load_inverted(path: str | Path, model: UNetModel) -> InvertedImage:
    """Read what `save_inverted` wrote.

    Args:
        path: The file.
        model: The model that inverted it, or one with equal weights.

    Raises:
        ConfigError: if the file is no saved inversion, or belongs to another model.
    """
    tensors, about = _read(path, None)
    mine = fingerprint(model.pipe)
    if about["fingerprint"] != mine:
        raise ConfigError(
            f"{str(path)!r} was inverted with {about['model']!r} (weights {about['fingerprint']}); "
            f"its noise means nothing to {model.name!r} (weights {mine}). Invert the image again."
        )
    tape = {
        TapeKey.parse(name.removeprefix(TAPE)): x.to(model.device)
        for name, x in tensors.items()
        if name.startswith(TAPE)
    }
    here = {name: x.to(model.device) for name, x in tensors.items() if name != "picture"}
    return InvertedImage(
        model=model,
        picture=Picture(
            image=Image.fromarray(tensors["picture"].numpy()),
            name=about["name"],
            sha256=about["sha256"],
            notes=tuple(about["notes"]),
        ),
        size=(about["size"][0], about["size"][1]),
        trajectory=Trajectory.unpack(here, about["trajectory"]),
        inversion=INVERSIONS[about["inversion"]].build(about["parameters"]),
        tape=Tape(tensors=tape) if tape else None,
        control=tuple(about.get("control", ())),
    )


def _read(path: str | Path, wanted: tuple[str, ...] | None) -> tuple[dict[str, Tensor], Any]:
    """Return the wanted tensors (None: all) and the description, with `steps` and `trajectory`."""
    try:
        with safe_open(Path(path), framework="pt") as file:
            names = list(file.keys()) if wanted is None else wanted
            meta = file.metadata() or {}
            about = json.loads(meta["image"])
            about["trajectory"] = meta
            about["steps"] = file.get_slice("latents").get_shape()[0] - 1
            return {name: file.get_tensor(name) for name in names}, about
    except Exception as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ConfigError(
            f"{str(path)!r} is not a saved inversion ({reason}). Allowed: a file that "
            "'freeprompt invert' wrote, or an image."
        ) from error
