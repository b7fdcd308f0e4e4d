"""Training of the judge, on rendered scenes only."""

import io
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from freeprompt.judge import Judge, delta_e
from freeprompt.judge.judge import Reading
from freeprompt.judge.labels import HEADS, UNKNOWN, Truth
from freeprompt.judge.network import JudgeNetwork
from freeprompt.train.config import JudgeConfig, Preset, TrainConfig
from freeprompt.train.data import (
    Seeds,
    batches,
    moved,
    portions,
    scene_at,
    step_generator,
    to_signed,
)
from freeprompt.train.loop import Run, Trainer, autocast, fit, load_checkpoint
from freeprompt.world import COLORS, Scene

Batch = tuple[Tensor, Tensor, Tensor]


def _compressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Send three images in ten through JPEG, which blurs colours and rings at edges."""
    if rng.random() >= 0.3:
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
    return np.array(Image.open(buffer))


def labelled(scenes: list[Scene], resolution: int) -> Batch:
    """Render scenes with their truth.

    Returns:
        Images (batch, height, width, 3) uint8, masks (batch, height, width) bool, and labels
        (batch, 4) in the order of `HEADS`.
    """
    rendered = [scene.render(size=resolution) for scene in scenes]
    images = torch.from_numpy(np.stack([r.image for r in rendered]))
    masks = torch.from_numpy(np.stack([r.mask for r in rendered]))
    return images, masks, torch.tensor([Truth.of(scene).as_list() for scene in scenes])


def training_batch(seed: int, step: int, batch: int, resolution: int) -> Batch:
    """Render the batch of one training step, some images compressed."""
    scenes = [scene_at(seed, step * batch + i, "any") for i in range(batch)]
    images, masks, labels = labelled(scenes, resolution)
    rng = np.random.default_rng([seed, step, 1])
    return torch.from_numpy(np.stack([_compressed(i, rng) for i in images.numpy()])), masks, labels


def degraded(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and roughen images in [-1, 1] by random amounts, as an autoencoder would.

    Half of the images are left sharp, and the noise is small, so that hues stay what they are.
    """
    shape = (len(images), 1, 1, 1)
    chance = torch.rand((3, *shape), generator=generator, device=images.device)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), "replicate"), 3, 1)
    amount = (2 * chance[0] - 1).clamp_min(0) * 0.9
    return (images.lerp(soft, amount) + noise * 0.08 * chance[1] * chance[2]).clamp(-1, 1)


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Sum cross-entropy and one minus the soft overlap of `(batch, height, width)` masks."""
    truth = mask.float()
    guess = logits.sigmoid()
    overlap = (guess * truth).flatten(1).sum(1)
    union = (guess + truth - guess * truth).flatten(1).sum(1)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    return entropy + (1 - (overlap + 1) / (union + 1)).mean()


class JudgeTask:
    """The judge's network, its loss and its validation, for `loop.fit`."""

    def __init__(
        self, sizes: JudgeConfig, config: TrainConfig, device: torch.device, held_out: int
    ) -> None:
        self.sizes, self.config, self.device = sizes, config, device
        self.network = JudgeNetwork(sizes.channels)
        self.module: nn.Module = self.network.to(device)
        self.scenes = [scene_at(Seeds.CHECK_JUDGE, i, "held-out") for i in range(held_out)]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Render the scenes of steps `start` .. `stop - 1`."""
        make = partial(
            training_batch,
            Seeds.JUDGE + self.config.seed,
            batch=self.config.batch,
            resolution=self.sizes.resolution,
        )
        return batches(make, start, stop, self.config.workers, self.device)

    def prepare(self, batch: Batch, step: int) -> tuple[Tensor, ...]:
        """Degrade the images of a batch."""
        images, masks, labels = moved(batch, self.device)
        generator = step_generator(Seeds.NOISE + self.config.seed, step, self.device)
        return degraded(to_signed(images), generator), masks, labels

    def loss(self, *parts: Tensor) -> Tensor:
        """Sum the four classifiers' cross-entropies and the mask's loss."""
        images, masks, labels = parts
        with autocast(self.config, self.device):
            heads, mask = self.network(images)
        total = mask_loss(mask.float(), masks)
        for head, truth in zip(HEADS, labels.T, strict=True):
            known = (truth != UNKNOWN).sum().clamp_min(1)
            logits = heads[head].float()
            total = total + functional.cross_entropy(logits, truth, reduction="sum") / known
        return total

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the judge on held-out scenes."""
        return judge_scores(self.judge(), self.scenes)

    def judge(self) -> Judge:
        """Wrap a copy of the network as it is now, uncalibrated."""
        return Judge(
            deepcopy(self.network),
            self.sizes.resolution,
            self.sizes.channels,
            dict.fromkeys(HEADS, 1.0),
        )


def judge_scores(judge: Judge, scenes: list[Scene]) -> dict[str, float]:
    """Compare a judge's readings of rendered scenes with the truth; see `reading_scores`."""
    images, masks, _ = labelled(scenes, judge.resolution)
    return reading_scores(judge.read(images.numpy()), scenes, masks.numpy())


def reading_scores(
    readings: list[Reading], scenes: list[Scene], masks: np.ndarray
) -> dict[str, float]:
    """Score readings of images of known scenes.

    Returns:
        Accuracy of each attribute, where it is known; colour accuracy and mean CIE 1976
        difference over coloured objects; mean intersection over union of the masks.
    """
    truths = [Truth.of(scene) for scene in scenes]
    scores = {}
    for head in ("subject", "place", "style"):
        hits = [
            getattr(r, head) == HEADS[head][getattr(t, head)] for r, t in _pairs(readings, truths)
        ]
        scores[head] = float(np.mean(hits))
    colored = [(r.color, s.color) for r, s in zip(readings, scenes, strict=True) if s.color]
    pairs = [(seen, true) for seen, true in colored if true is not None]
    scores["color"] = float(np.mean([seen == true for seen, true in pairs]))
    apart = [delta_e(COLORS[seen], COLORS[true]) for seen, true in pairs if seen is not None]
    scores["color_delta_e"] = float(np.mean(apart)) if apart else float("nan")
    seen_masks = np.stack([r.mask for r in readings])
    both, either = (seen_masks & masks).sum((1, 2)), (seen_masks | masks).sum((1, 2))
    scores["mask_iou"] = float(np.mean(both / np.maximum(either, 1)))
    return scores


def _pairs(readings: list[Reading], truths: list[Truth]) -> list[tuple[Reading, Truth]]:
    """Pair readings with truths."""
    return list(zip(readings, truths, strict=True))


def calibrated(judge: Judge, count: int) -> dict[str, float]:
    """Find by attribute the temperature that makes probabilities honest on fresh held-out scenes.

    Args:
        judge: The judge.
        count: Scenes to render.

    Returns:
        The temperature of each attribute, the best of a grid by cross-entropy.
    """
    scenes = [scene_at(Seeds.CALIBRATION, i, "any") for i in range(count)]
    images, _, labels = labelled(scenes, judge.resolution)
    device = next(judge.network.parameters()).device
    with torch.no_grad():
        parts = [judge.network(to_signed(part.to(device)))[0] for part in portions(images, 64)]
    result = {}
    for head, truth in zip(HEADS, labels.T, strict=True):
        logits = torch.cat([part[head] for part in parts]).cpu()
        result[head] = _best_temperature(logits, truth)
    return result


def _best_temperature(logits: Tensor, truth: Tensor) -> float:
    """Find the temperature of least cross-entropy on a grid from 0.4 to 4."""
    grid = torch.logspace(-0.4, 0.6, 41)
    losses = torch.stack([functional.cross_entropy(logits / t, truth) for t in grid])
    return round(float(grid[losses.argmin()]), 3)


def train_judge(preset: Preset, config: TrainConfig, run: Run, device: torch.device) -> Trainer:
    """Train the judge and leave it, calibrated, in `run.folder / "judge.safetensors"`."""
    torch.manual_seed(Seeds.JUDGE + config.seed)
    trainer = fit(JudgeTask(preset.judge, config, device, preset.held_out), config, run)
    export_judge(preset, run.folder, run.folder / "judge.safetensors")
    return trainer


def export_judge(preset: Preset, folder: Path, output: Path) -> Judge:
    """Write the averaged weights of a run, calibrated, as a judge's weights file."""
    network: Any = JudgeNetwork(preset.judge.channels)
    with torch.no_grad():
        averages = load_checkpoint(folder)["ema"]
        for parameter, average in zip(network.parameters(), averages, strict=True):
            parameter.copy_(average)
    flat = dict.fromkeys(HEADS, 1.0)
    judge = Judge(network, preset.judge.resolution, preset.judge.channels, flat)
    judge.temperatures = calibrated(judge, 16 * preset.held_out)
    judge.save(output)
    return judge


__all__ = ["JudgeTask", "calibrated", "judge_scores", "reading_scores", "train_judge"]
