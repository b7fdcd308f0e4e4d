"""The cache of latents that the denoiser is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freeprompt.errors import ConfigError
from freeprompt.train.data import Seeds, batches, rendered_batch, scene_at
from freeprompt.train.vae import encode
from freeprompt.world import captions

_PART = 32


class LatentCache:
    """Latents of the first scenes of the training stream, on disk, with the scenes at hand.

    A cache is a folder with `latents.npy` (float16, scaled to unit variance). The scenes are not
    stored: they follow from the seed and the index.

    Args:
        folder: Folder that `build_cache` wrote.
        seed: Seed of the stream.

    Raises:
        ConfigError: if the folder holds no cache.
    """

    def __init__(self, folder: Path, seed: int = Seeds.MODEL) -> None:
        path = folder / "latents.npy"
        if not path.is_file():
            raise ConfigError(f"{folder} holds no latents.npy; build the cache first.")
        self.latents = np.load(path, mmap_mode="r")
        self.scenes = [scene_at(seed, i) for i in range(len(self.latents))]

    def batch(self, seed: int, step: int, batch: int) -> tuple[Tensor, list[str]]:
        """Draw the latents and captions of one training step.

        Returns:
            Latents `(batch, channels, height, width)` float32, and one paraphrase for each.
        """
        rng = np.random.default_rng([seed, step])
        index = np.sort(rng.integers(len(self.scenes), size=batch))
        latents = torch.from_numpy(self.latents[index].astype(np.float32))
        return latents, [captions(self.scenes[i], rng) for i in index]


def _known(path: Path) -> np.ndarray | None:
    """Read the latents that are there already."""
    return np.load(path) if path.is_file() else None


def build_cache(
    vae: Any,
    resolution: int,
    folder: Path,
    count: int,
    workers: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Render and encode scenes until the cache holds `count`; what is there is kept.

    Args:
        vae: The autoencoder, with its scaling factor.
        resolution: Side of the images in pixels.
        folder: Folder of the cache; made if missing. It belongs to this autoencoder alone.
        count: Scenes to hold, rounded up to a multiple of 32.
        workers: Processes that render.
        report: Receives a line of text now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "latents.npy"
    known = _known(path)
    parts = [] if known is None else [known]
    start, stop = (0 if known is None else len(known) // _PART), -(-count // _PART)
    make = partial(rendered_batch, Seeds.MODEL, batch=_PART, resolution=resolution)
    for index, images in enumerate(batches(make, start, stop, workers), start=start + 1):
        parts.append(encode(vae, images).half().cpu().numpy())
        if index % 100 == 0:
            report(f"cached {index * _PART} of {stop * _PART} latents")
    if start < stop:
        partial_path = folder / "partial.npy"
        np.save(partial_path, np.concatenate(parts))
        partial_path.replace(path)
