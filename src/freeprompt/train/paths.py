"""Paths of a model's guided DDIM from noise to image, walked once and kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freeprompt.errors import ConfigError
from freeprompt.train.anatomy import TRAIN_TIMESTEPS
from freeprompt.train.config import LCMConfig, TrainConfig
from freeprompt.train.data import Seeds, caption_at, saved, scene_at, step_generator
from freeprompt.train.loop import Timer, autocast
from freeprompt.train.model import tokenise

_PART = 16
_SAVE_MINUTES = 1.0
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ladder:
    """Noise levels from the image, 0, to pure noise, laid as trailing schedules lay them.

    Level k of n is training timestep round(1000 k / n) - 1. So of 8 levels the upper, every
    second and every fourth are those of 1, 4 and 2 steps.

    Attributes:
        labels: Timestep of each level, (levels + 1,); that of level 0 is never used.
        alphas: Cumulative alpha of each level, (levels + 1,); 1 at level 0.
        prediction: What the network predicts, `epsilon` or `v_prediction`.
    """

    labels: Tensor
    alphas: Tensor
    prediction: str

    @classmethod
    def of(cls, pipeline: Any, levels: int, device: torch.device) -> "Ladder":
        """Lay so many levels over a pipeline's noise schedule."""
        labels = torch.round(torch.arange(levels + 1) * (TRAIN_TIMESTEPS / levels)).long() - 1
        alphas = pipeline.scheduler.alphas_cumprod.float()[labels]
        alphas[0] = 1.0
        config = pipeline.scheduler.config
        return cls(labels.to(device), alphas.to(device), config.prediction_type)

    def mixed(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Mix images and noise, (batch, channels, height, width), at their levels, (batch,)."""
        signal, sigma = self._scales(level)
        return signal * clean + sigma * noise

    def clean(self, x: Tensor, answer: Tensor, level: Tensor) -> Tensor:
        """Return the image that a network's answer at `x` stands for."""
        signal, sigma = self._scales(level)
        if self.prediction == "v_prediction":
            return signal * x - sigma * answer
        return (x - sigma * answer) / signal

    def moved(self, x: Tensor, clean: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """Move to another level by DDIM, for the image seen at `x`."""
        signal, sigma = self._scales(here)
        return self.mixed(clean, (x - signal * clean) / sigma, there)

    def _scales(self, level: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alphas[level].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()


class Paths:
    """Paths on disk: `paths.npy`, (paths, levels + 1, channels, height, width), float16.

    The prompts are not stored: they follow from the seed and the index.

    Args:
        folder: Folder that `build_paths` wrote.
        seed: Of the run.

    Raises:
        ConfigError: if the folder holds no paths.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        path = folder / "paths.npy"
        if not path.is_file():
            raise ConfigError(f"{folder} holds no paths.npy; walk the paths first.")
        self.latents, self.seed = np.load(path, mmap_mode="r"), seed

    def __len__(self) -> int:
        return len(self.latents)

    def at(self, chosen: Index, level: Index) -> Tensor:
        """Return the latents of some paths, each at a level of its own."""
        return torch.from_numpy(self.latents[chosen, level].astype(np.float32))

    def ends(self, chosen: Index) -> Tensor:
        """Return where some paths end."""
        return self.at(chosen, np.zeros_like(chosen))

    def prompts(self, chosen: Index) -> list[str]:
        """Return the prompts of some paths."""
        return prompts_of(self.seed, chosen)


def prompts_of(seed: int, chosen: Sequence[int] | Index) -> list[str]:
    """Return the prompts of paths: captions of scenes, in the words of training."""
    stream = Seeds.PATHS + seed
    return [caption_at(scene_at(stream, int(i)), stream, int(i)) for i in chosen]


class Walker:
    """Walks down from noise, `substeps` steps of guided DDIM from each level to the next."""

    def __init__(self, pipeline: Any, sizes: LCMConfig, config: TrainConfig) -> None:
        self.pipeline, self.sizes, self.config = pipeline, sizes, config
        self.device = pipeline.device
        self.ladder = Ladder.of(pipeline, sizes.levels * sizes.substeps, self.device)
        self.null = self._encode([""])

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        tokens = tokenise(self.pipeline.tokenizer, prompts).to(self.device)
        states: Tensor = self.pipeline.text_encoder(tokens).last_hidden_state
        return states

    @torch.no_grad()
    def walk(self, chosen: Sequence[int]) -> npt.NDArray[np.float16]:
        """Walk the paths of some indices, (paths, levels + 1, channels, height, width)."""
        text = self._encode(prompts_of(self.config.seed, chosen))
        texts = torch.cat([self.null.expand_as(text), text])
        config, stream = self.pipeline.unet.config, Seeds.PATHS + self.config.seed
        shape = config.in_channels, config.sample_size, config.sample_size
        drawn = [torch.randn(shape, generator=step_generator(stream, i)) for i in chosen]
        x, passed = torch.stack(drawn).to(self.device), []
        for k in range(self.sizes.levels * self.sizes.substeps, 0, -1):
            if k % self.sizes.substeps == 0:
                passed.append(x)
            level = torch.full((len(x),), k, device=self.device)
            x = self.ladder.moved(x, self._seen(x, level, texts), level, level - 1)
        return torch.stack([x, *reversed(passed)], dim=1).half().cpu().numpy()

    def _seen(self, x: Tensor, level: Tensor, texts: Tensor) -> Tensor:
        twice, levels = torch.cat([x, x]), torch.cat([level, level])
        with autocast(self.config, self.device):
            answer = self.pipeline.unet(twice, self.ladder.labels[levels], texts).sample
        blank, prompted = self.ladder.clean(twice, answer.float(), levels).chunk(2)
        return blank + self.sizes.guidance * (prompted - blank)


def build_paths(
    pipeline: Any,
    sizes: LCMConfig,
    config: TrainConfig,
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda line: None,
) -> bool:
    """Walk paths until there are `sizes.paths` and those to validate with; what is there is kept.

    Args:
        pipeline: The teacher.
        sizes: How many, over how many levels, at what guidance.
        config: Of the run: its seed and precision; a batch of it, or 16, is walked at once.
        folder: Folder of the paths; made if missing. It belongs to this teacher alone.
        stop: Asked after each part.
        report: Receives a line of text now and then.

    Returns:
        Whether they are all there; they are not where `stop` ended the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / "paths.npy", sizes.paths + sizes.checked
    parts = [np.load(path, mmap_mode="r")] if path.is_file() else []
    done, ended = sum(map(len, parts)), False
    walker, due = Walker(pipeline, sizes, config), Timer(_SAVE_MINUTES)
    while done < wanted and not ended:
        last = min(done + max(_PART, config.batch), wanted)
        parts.append(walker.walk(range(done, last)))
        done = last
        ended = done < wanted and stop()
        if ended or done == wanted or due.due():
            parts = [saved(np.concatenate(parts), path)]
        report(f"walked {done} of {wanted} paths")
    return not ended
