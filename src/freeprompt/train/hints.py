"""Training of a ControlNet and a T2I-Adapter: the control image is the object's mask."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    T2IAdapter,
)
from torch import Tensor

from freeprompt.train.conditioned import (
    HELD_OUT,
    SHOWN,
    Base,
    ConditionedTask,
    as_arrays,
    config_of,
    finish,
    sheet,
)
from freeprompt.train.config import TrainConfig
from freeprompt.train.data import Seeds, caption_at, scene_at, step_generator
from freeprompt.train.loop import Run

Kind = Literal["controlnet", "adapter"]
EMPTY_PROMPTS = 0.3
"""More than the base had: without a prompt there is only the control image to go by."""
GUIDANCE = 5.0


def mask_image(mask: np.ndarray) -> np.ndarray:
    """Return a boolean mask as a control image: white object on black, uint8 HWC."""
    return np.repeat(mask[:, :, None], 3, 2).astype(np.uint8) * np.uint8(255)


class HintTask(ConditionedTask):
    """What a ControlNet and a T2I-Adapter have in common: scenes with masks, and a frozen UNet."""

    def drawn(self, seed: int, step: int, count: int, check: bool) -> tuple[Tensor, ...]:
        scenes = [scene_at(seed, step * count + i) for i in range(count)]
        rendered = [scene.render(self.base.resolution) for scene in scenes]
        prompts = [caption_at(s, seed, step * count + i) for i, s in enumerate(scenes)]
        if not check:
            chance = torch.rand(count, generator=step_generator(seed, step))
            prompts = ["" if c < EMPTY_PROMPTS else p for c, p in zip(chance, prompts, strict=True)]
        images = torch.from_numpy(np.stack([one.image for one in rendered]))
        masks = torch.from_numpy(np.stack([mask_image(one.mask) for one in rendered]))
        return images, masks, self.base.read(prompts)

    def seen(self, second: Tensor) -> Tensor:
        """Return control images in [0, 1], NCHW."""
        return second.to(self.device).permute(0, 3, 1, 2).float().div(255).contiguous()

    def blind(self, seen: Tensor) -> None:
        """Without a control image the base answers."""
        return

    def shown(self) -> tuple[Tensor, list[str]]:
        """Return the control images and captions of the sheet."""
        count = min(SHOWN, len(self.held_out[0]))
        scenes = [scene_at(self.check_seed, i) for i in range(count)]
        return self.held_out[1][:count], [scene.caption() for scene in scenes]

    def show(self, folder: Path, step: int) -> None:
        """Draw control images above what is drawn with and without them."""
        masks, captions = self.shown()
        generators = [step_generator(Seeds.PROMPTS, i) for i in range(len(captions))]
        plan = {"prompt": captions, "guidance_scale": GUIDANCE}
        given = as_arrays(self.stock(), image=self.seen(masks), generator=generators, **plan)
        generators = [step_generator(Seeds.PROMPTS, i) for i in range(len(captions))]
        plain = as_arrays(self.base.pipe, generator=generators, **plan)
        sheet(folder / f"sheet-{step:07d}.png", [masks.numpy(), given, plain], captions)


class ControlNetTask(HintTask):
    """A ControlNet that starts as a copy of the base's encoder, with silent outputs."""

    def __init__(self, base: Base, config: TrainConfig, held_out: int) -> None:
        levels = len(base.pipe.vae.config.block_out_channels)
        widths = (16, 32, 64, 96)[:levels]  # one level of pixels for each of the autoencoder's
        self.net: Any = ControlNetModel.from_unet(
            base.pipe.unet, conditioning_embedding_out_channels=widths
        )
        base.tune(self.net)
        super().__init__(base, config, self.net, held_out, (Seeds.CONTROL, Seeds.CHECK_CONTROL))

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        down, middle = self.net(noisy, timesteps, text, seen, return_dict=False)
        answer: Tensor = self.base.pipe.unet(
            noisy,
            timesteps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return answer

    def stock(self) -> Any:
        return StableDiffusionControlNetPipeline(**self.parts(), controlnet=self.net)

    def export(self, folder: Path) -> Path:
        self.net.save_pretrained(folder / "controlnet")
        return folder / "controlnet"


class AdapterTask(HintTask):
    """A T2I-Adapter: it sees the control image alone, once for all steps."""

    def __init__(self, base: Base, config: TrainConfig, held_out: int) -> None:
        levels = len(base.pipe.vae.config.block_out_channels)
        self.net: Any = T2IAdapter(
            in_channels=3,
            channels=list(base.pipe.unet.config.block_out_channels),
            num_res_blocks=2,
            downscale_factor=2 ** (levels - 1),
        )
        super().__init__(base, config, self.net, held_out, (Seeds.CONTROL, Seeds.CHECK_CONTROL))

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        features = self.net(seen)
        answer: Tensor = self.base.pipe.unet(
            noisy, timesteps, text, down_intrablock_additional_residuals=features
        ).sample
        return answer

    def stock(self) -> Any:
        return StableDiffusionAdapterPipeline(**self.parts(), adapter=self.net)

    def export(self, folder: Path) -> Path:
        self.net.save_pretrained(folder / "adapter")
        return folder / "adapter"


def train_hints(
    kind: Kind,
    base: Path,
    run: Run,
    device: torch.device,
    preset: str = "cpu64",
    **options: int | float | None,
) -> Path:
    """Train a ControlNet or a T2I-Adapter for a finished model.

    Args:
        kind: Which of the two.
        base: Folder of the saved pipeline, which stays as it is.
        run: Where, and when to stop.
        device: Where to train.
        preset: `cpu64`, or `tiny` for a trial of the machinery.
        **options: `steps`, `batch`, `rate`, `seed` where they differ from the preset's.

    Returns:
        The folder to load with `--controlnet` or `--adapter`.

    Raises:
        ModelError: if the base cannot be loaded.
    """
    config = config_of(preset, **options)
    torch.manual_seed(Seeds.CONTROL + config.seed)
    task = ControlNetTask if kind == "controlnet" else AdapterTask
    return finish(task(Base(base, device), config, HELD_OUT[preset]), config, run)
