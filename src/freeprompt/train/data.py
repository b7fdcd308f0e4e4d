"""The streams of scenes: item `i` of a stream is a pure function of (seed, i).

Every seed that training or evaluation uses is written down here, in `Seeds`; the benchmark uses
seeds of its own, below one million. So no network can have seen a scene that scores an edit.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from freeprompt.train.files import replacing
from freeprompt.world import Scene, captions, random_scene

Split = Literal["train", "held-out", "any"]


class Seeds(IntEnum):
    """First seed of each range; a run's own `seed` (0 .. 99_999) is added to it."""

    VAE = 1_000_000
    MODEL = 1_100_000
    JUDGE = 1_200_000
    CAPTIONS = 1_300_000
    NOISE = 1_400_000
    CONTROL = 1_500_000
    INSTRUCT = 1_600_000
    PATHS = 1_700_000
    CHECK_VAE = 2_000_000
    CHECK_JUDGE = 2_100_000
    CALIBRATION = 2_200_000
    PROMPTS = 2_300_000
    CHECK_CONTROL = 2_400_000
    CHECK_INSTRUCT = 2_500_000


def scene_at(seed: int, index: int, split: Split = "train") -> Scene:
    """Draw item `index` of the stream `seed`."""
    return random_scene(np.random.default_rng([seed, index]), split=split)


def caption_at(scene: Scene, seed: int, index: int) -> str:
    """Draw one of the scene's captions; the same one for the same numbers."""
    return captions(scene, np.random.default_rng([seed, index]))


def render(scenes: list[Scene], resolution: int) -> UInt8[Tensor, "batch height width rgb"]:
    """Render scenes to one array of images in 0..255."""
    return torch.from_numpy(np.stack([s.render(size=resolution).image for s in scenes]))


def to_signed(images: Tensor) -> Tensor:
    """Turn uint8 NHWC images in 0..255 into float NCHW images in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def to_bytes(images: Tensor) -> Tensor:
    """Turn float NCHW images in [-1, 1] into uint8 NHWC images in 0..255."""
    scaled = images.float().clamp(-1, 1).add(1.0).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def portions(items: Tensor, size: int) -> list[Tensor]:
    """Cut a tensor along its first dimension into portions of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the source of all the randomness of one training step.

    It depends on the step alone, so a run that was killed and resumed draws what it would have
    drawn, and no state of a random generator has to be stored.
    """
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed) % 2**63)


class _Steps(Dataset[Any]):
    """A dataset whose item `k` is the whole batch of step `k`."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Any:
        return self.make(step)


def batches(
    make: Callable[[int], Any],
    start: int,
    stop: int,
    workers: int,
    device: torch.device | None = None,
) -> Iterator[Any]:
    """Yield the batches of steps `start` .. `stop - 1` in order, made ahead by `workers`.

    They stay on the CPU; those for a GPU lie in memory from which it copies while both compute.
    """
    if start >= stop:
        return iter(())
    loader: DataLoader[Any] = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=device is not None and device.type == "cuda",
    )
    return iter(loader)


def moved(parts: Iterable[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Bring the tensors of a batch to the device; a GPU copies while the CPU goes on."""
    return tuple(part.to(device, non_blocking=True) for part in parts)


def rendered_batch(
    seed: int, step: int, batch: int, resolution: int
) -> UInt8[Tensor, "batch height width rgb"]:
    """Render the scenes of one training step of a stream."""
    scenes = [scene_at(seed, step * batch + i) for i in range(batch)]
    return render(scenes, resolution)


def saved(array: np.ndarray, path: Path) -> np.ndarray:
    """Write an array so that `path` is at every moment either the old or the new file; return it.

    Raises:
        SaveError: if it cannot be written.
    """
    with replacing(path) as draft:
        np.save(draft, array)
    return array
