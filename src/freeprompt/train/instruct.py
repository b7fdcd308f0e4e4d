"""Training of an InstructPix2Pix model: pairs of a picture and its ideal edit, which are exact."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from torch import Tensor, nn

from freeprompt.train.anatomy import save_pipeline
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
from freeprompt.train.data import Seeds, scene_at, step_generator, to_signed
from freeprompt.train.loop import Run
from freeprompt.world import ANIMALS, COLORS, OBJECTS, PLACES, STYLES, Scene, is_held_out

DROPPED = 0.05
"""Share of the pairs without the picture, of those without the text, and of those without both."""
GUIDANCE, IMAGE_GUIDANCE = 5.0, 1.5


def edit_of(scene: Scene, rng: np.random.Generator) -> Scene:
    """Draw an ideal edit of a scene: another colour, subject, place or style, all else the same.

    The edited scene is one that training may see.
    """
    while True:
        edited = scene.edited(**_change(scene, rng))
        if edited != scene and not is_held_out(edited):
            return edited


def _change(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """Draw what is to change; a subject becomes one of its own kind, so that its colour stays."""
    is_object = scene.subject in OBJECTS
    attribute = rng.choice(["color", "subject", "place", "style"])
    if attribute == "color" and is_object:
        return {"color": str(rng.choice(list(COLORS)))}
    if attribute == "place":
        return {"place": str(rng.choice(list(PLACES)))}
    if attribute == "style":
        return {"style": str(rng.choice(list(STYLES)))}
    return {"subject": str(rng.choice(list(OBJECTS if is_object else ANIMALS)))}


def pair_at(seed: int, index: int) -> tuple[Scene, Scene]:
    """Draw item `index` of a stream of pairs: a scene and its ideal edit."""
    scene = scene_at(seed, index)
    return scene, edit_of(scene, np.random.default_rng([seed, index, 1]))


def with_picture_channels(unet: Any) -> nn.Module:
    """Copy a UNet so that it takes as many channels again, of a picture it does not look at yet.

    Source: Brooks et al., arXiv:2211.09800, section 3.2: new input channels start at zero.
    """
    channels = unet.config.in_channels
    wide: Any = type(unet).from_config({**unet.config, "in_channels": 2 * channels})
    weights = unet.state_dict()
    weights["conv_in.weight"] = torch.cat(
        [weights["conv_in.weight"], torch.zeros_like(weights["conv_in.weight"])], 1
    )
    wide.load_state_dict(weights)
    made: nn.Module = wide
    return made


class InstructTask(ConditionedTask):
    """A UNet that sees the picture to edit; what is said to it is the caption of the edit.

    The base's vocabulary has the words of captions alone, so they are the instructions.
    """

    def __init__(self, base: Base, config: TrainConfig, held_out: int) -> None:
        self.unet: Any = with_picture_channels(base.pipe.unet)
        base.tune(self.unet)
        super().__init__(base, config, self.unet, held_out, (Seeds.INSTRUCT, Seeds.CHECK_INSTRUCT))

    def drawn(self, seed: int, step: int, count: int, check: bool) -> tuple[Tensor, ...]:
        pairs = [pair_at(seed, step * count + i) for i in range(count)]
        prompts = [edited.caption() for _, edited in pairs]
        before, after = (
            torch.from_numpy(np.stack([p[i].render(self.base.resolution).image for p in pairs]))
            for i in (0, 1)
        )
        if not check:
            prompts, before = _dropped(prompts, before, step_generator(seed, step))
        return after, before, self.base.read(prompts)

    def seen(self, second: Tensor) -> Tensor:
        """Return the pictures' latents, unscaled, as Brooks et al. have it; zero for black ones."""
        vae = self.base.pipe.vae
        latents: Tensor = vae.encode(to_signed(second.to(vae.device))).latent_dist.mean
        given = second.flatten(1).any(1).to(latents)
        return latents * given.view(-1, 1, 1, 1)

    def blind(self, seen: Tensor) -> Tensor:
        return torch.zeros_like(seen)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        answer: Tensor = self.unet(torch.cat([noisy, seen], 1), timesteps, text).sample
        return answer

    def stock(self) -> Any:
        return StableDiffusionInstructPix2PixPipeline(**(self.parts() | {"unet": self.unet}))

    def show(self, folder: Path, step: int) -> None:
        """Draw pictures, what is made of them, and the ideal edits."""
        after, before, _ = (part[:SHOWN] for part in self.held_out)
        captions = [pair_at(self.check_seed, i)[1].caption() for i in range(len(after))]
        made = as_arrays(
            self.stock(),
            prompt=captions,
            image=to_signed(before) / 2 + 0.5,
            guidance_scale=GUIDANCE,
            image_guidance_scale=IMAGE_GUIDANCE,
            generator=[step_generator(Seeds.PROMPTS, i) for i in range(len(captions))],
        )
        sheet(folder / f"sheet-{step:07d}.png", [before.numpy(), after.numpy(), made], captions)

    def export(self, folder: Path) -> Path:
        save_pipeline(self.stock(), folder / "instruct", torch.float32)
        return folder / "instruct"


def _dropped(
    prompts: list[str], before: Tensor, generator: torch.Generator
) -> tuple[list[str], Tensor]:
    """Empty some prompts and blacken some pictures, so that both can be guided by."""
    chance = torch.rand(len(prompts), generator=generator)
    textless = chance < 2 * DROPPED
    blind = (chance >= DROPPED) & (chance < 3 * DROPPED)
    kept = ["" if empty else p for empty, p in zip(textless, prompts, strict=True)]
    return kept, before * ~blind.view(-1, 1, 1, 1)


def train_instruct(
    base: Path,
    run: Run,
    device: torch.device,
    preset: str = "cpu64",
    **options: int | float | None,
) -> Path:
    """Train an InstructPix2Pix model from a finished text-to-image model.

    Args:
        base: Folder of the saved pipeline.
        run: Where, and when to stop.
        device: Where to train.
        preset: `cpu64`, or `tiny` for a trial of the machinery.
        **options: `steps`, `batch`, `rate`, `seed` where they differ from the preset's.

    Returns:
        The folder to load with `--model`.

    Raises:
        ModelError: if the base cannot be loaded.
    """
    config = config_of(preset, **options)
    torch.manual_seed(Seeds.INSTRUCT + config.seed)
    return finish(InstructTask(Base(base, device), config, HELD_OUT[preset]), config, run)
