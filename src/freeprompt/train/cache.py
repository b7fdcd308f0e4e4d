"""The cache of latents that the denoiser is trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freeprompt.errors import ConfigError
from freeprompt.train.data import Seeds, batches, rendered_batch, saved, scene_at
from freeprompt.train.loop import Timer
from freeprompt.train.vae import encode
from freeprompt.world import captions

_PART = 32
_SAVE_MINUTES = 3.0


class LatentCache:
    """Latents of the first scenes of the training stream, on disk.

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
        self.latents, self.seed = np.load(path, mmap_mode="r"), seed

    def batch(self, seed: int, step: int, batch: int) -> tuple[Tensor, list[str]]:
        """Draw the latents and captions of one training step.

        Returns:
            Latents `(batch, channels, height, width)` float32, and one paraphrase for each.
        """
        rng = np.random.default_rng([seed, step])
        index = np.sort(rng.integers(len(self.latents), size=batch))
        latents = torch.from_numpy(self.latents[index].astype(np.float32))
        return latents, [captions(scene_at(self.seed, int(i)), rng) for i in index]


def build_cache(
    vae: Any,
    resolution: int,
    folder: Path,
    count: int,
    workers: int = 0,
    report: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Render and encode scenes until the cache holds `count`; what is there is kept.

    Args:
        vae: The autoencoder, with its scaling factor.
        resolution: Side of the images in pixels.
        folder: Folder of the cache; made if missing. It belongs to this autoencoder alone.
        count: Scenes to hold, rounded up to a multiple of 32.
        workers: Processes that render.
        report: Receives a line of text now and then.
        stop: Asked after each part of 32.

    Returns:
        Whether it holds `count`; it does not where `stop` ended the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, last = folder / "latents.npy", -(-count // _PART)
    parts = [np.load(path, mmap_mode="r")] if path.is_file() else []
    done = sum(map(len, parts)) // _PART
    make = partial(rendered_batch, Seeds.MODEL, batch=_PART, resolution=resolution)
    due, ended = Timer(_SAVE_MINUTES), False
    for images in batches(make, done, last, workers, vae.device):
        parts.append(encode(vae, images).half().cpu().numpy())
        done += 1
        ended = done < last and stop()
        if ended or done == last or due.due():
            parts = [saved(np.concatenate(parts), path)]
        if ended or done % 100 == 0:
            report(f"cached {done * _PART} of {last * _PART} latents")
        if ended:
            break
    return not ended
