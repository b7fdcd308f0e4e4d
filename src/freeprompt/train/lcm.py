"""Distillation of a saved model into a LoRA that draws in one to eight steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import save_file
from torch import Tensor, nn

from freeprompt.errors import MissingDependency
from freeprompt.train.anatomy import load_pipeline
from freeprompt.train.config import LCMConfig, Preset, TrainConfig
from freeprompt.train.data import Seeds, batches, moved
from freeprompt.train.loop import Run, Trainer, autocast, check_run, fit, load_checkpoint
from freeprompt.train.model import SHEET_PROMPTS, draw_prompts, tokenise
from freeprompt.train.paths import Ladder, Paths, build_paths
from freeprompt.train.sheet import write_sheet

NAME = "lcm"
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
)
SMOOTH = 0.03  # below this a difference counts by its square; latents have unit variance


class LCMTask:
    """A LoRA that makes a denoiser consistent, its loss and its validation, for `loop.fit`.

    Consistent means that the image which the network sees is the same all along a path of the
    teacher's guided DDIM: the one in which the path ends. So the guidance is built in, and few
    steps are enough. The paths are walked to their ends beforehand, so that what is learned is
    the ends themselves; consistency distillation proper (Song et al.) takes the student's own
    guess one level below in their place, which needs no whole paths, but the ends have to come
    through to the noise level by level.

    Args:
        preset: Sizes.
        config: How to train.
        teacher: Folder of the saved pipeline.
        paths: Paths of it, the last ones to validate with.
        device: Where to train.

    Source: Luhman and Luhman, arXiv:2101.02388 (ends of whole paths); Song et al.,
    arXiv:2303.01469 (from anywhere on them); Luo et al., arXiv:2310.04378 (guidance in the
    teacher) and arXiv:2311.05556 (as a LoRA).
    """

    def __init__(
        self,
        preset: Preset,
        config: TrainConfig,
        teacher: Path,
        paths: Paths,
        device: torch.device,
    ) -> None:
        self.sizes, self.config, self.device, self.paths = preset.lcm, config, device, paths
        self.shown = SHEET_PROMPTS[: preset.sheet]
        self.pipeline = load_pipeline(teacher, device)
        self.unet: Any = self.pipeline.unet.eval().requires_grad_(False)
        if device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())  # trains faster there
        self.ladder = Ladder.of(self.pipeline, preset.lcm.levels, device)
        known = self.pipeline.scheduler.config
        self.pipeline.scheduler = DDIMScheduler.from_config(known, timestep_spacing="trailing")
        self.module: nn.Module = add_lora(self.unet, preset.lcm)

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Draw noisy latents, ends, levels and token ids of steps `start` .. `stop - 1`."""
        return batches(self.draw, start, stop, self.config.workers, self.device)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        """Draw one step's places on paths, all levels equally often."""
        rng = np.random.default_rng([Seeds.PATHS + self.config.seed, step])
        count, levels = self.config.batch, self.sizes.levels
        chosen = np.sort(rng.integers(len(self.paths) - self.sizes.checked, size=count))
        level = rng.permutation(np.arange(count) + rng.integers(levels)) % levels + 1
        return self.paths.at(chosen, level), self.paths.ends(chosen), torch.from_numpy(level), (
            tokenise(self.pipeline.tokenizer, self.paths.prompts(chosen))
        )  # fmt: skip

    def prepare(self, batch: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """Bring a batch to the device and encode its prompts; nothing random is left."""
        x, end, level, tokens = moved(batch, self.device)
        return x, end, level, self.encode(tokens)

    def loss(self, *parts: Tensor) -> Tensor:
        """Compute how far the images seen are from the ends of the paths."""
        x, end, level, text = parts
        apart = self.seen(x, level, text) - end
        return (apart.square() + SMOOTH**2).sqrt().mean() - SMOOTH

    def seen(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        """Return the images that the network sees in noisy latents."""
        with autocast(self.config, self.device):
            answer = self.unet(x, self.ladder.labels[level], text).sample
        return self.ladder.clean(x, answer.float(), level)

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> Tensor:
        """Encode token ids, (batch, tokens, width)."""
        states: Tensor = self.pipeline.text_encoder(tokens).last_hidden_state
        return states

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Measure the distance to the ends of paths kept back; draw the sheet's prompts."""
        images = draw_prompts(self.pipeline, self.shown, steps=4, guidance=1.0)
        write_sheet(folder / f"sheet-{step:07d}.png", images, 8, self.shown)
        steps = [n for n in (1, 2, 4, 8) if self.sizes.levels % n == 0]
        return {f"error_{n}": self.error(n) for n in steps}

    @torch.no_grad()
    def error(self, steps: int) -> float:
        """Return the root-mean-square distance from the ends of paths after so many steps."""
        chosen = np.arange(len(self.paths) - self.sizes.checked, len(self.paths))
        tokens = tokenise(self.pipeline.tokenizer, self.paths.prompts(chosen)).to(self.device)
        text, top = self.encode(tokens), self.sizes.levels
        x = self.paths.at(chosen, np.full(len(chosen), top)).to(self.device)
        for k in range(top, 0, -(top // steps)):
            here = torch.full((len(x),), k, device=self.device)
            x = self.ladder.moved(x, self.seen(x, here, text), here, here - top // steps)
        return float((x - self.paths.ends(chosen).to(self.device)).square().mean().sqrt())


def imported_peft() -> Any:
    """Import peft, which is an extra.

    Raises:
        MissingDependency: if it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingDependency(
            "Distillation trains a LoRA and needs the package peft, which is not installed: "
            "pip install 'freeprompt[lora]'."
        ) from error
    return peft


def add_lora(unet: Any, sizes: LCMConfig) -> nn.Module:
    """Add a LoRA to every attention and residual block; return its parameters as a module.

    The module holds the very parameters that the network computes with.
    """
    unet.add_adapter(
        imported_peft().LoraConfig(
            r=sizes.rank,
            lora_alpha=sizes.rank,
            target_modules=list(LAYERS),
            init_lora_weights="gaussian",
        ),
        NAME,
    )
    return nn.ParameterList(p for p in unet.parameters() if p.requires_grad)


def train_lcm(
    preset: Preset, config: TrainConfig, run: Run, teacher: Path, device: torch.device
) -> Trainer | None:
    """Distil a saved pipeline into a LoRA; walks paths into `run.folder / "paths"` first.

    Args:
        preset: Sizes.
        config: How to train.
        run: Where, and when to stop.
        teacher: Folder of the saved pipeline.
        device: Where to train.

    Returns:
        The trainer; None if the run ended before the paths were walked, which stay as they are.

    Raises:
        ModelError: if the pipeline cannot be loaded.
        ConfigError: if the run cannot be started or resumed.
        MissingDependency: if peft is not installed.
    """
    imported_peft()
    check_run(run)
    folder, source = run.folder / "paths", load_pipeline(teacher, device)
    if not build_paths(source, preset.lcm, config, folder, run.ends, run.report):
        return None
    torch.manual_seed(Seeds.PATHS + config.seed)
    return fit(LCMTask(preset, config, teacher, Paths(folder, config.seed), device), config, run)


def export_lcm(
    preset: Preset, folder: Path, teacher: Path, output: Path, rank: int | None = None
) -> int:
    """Write the averaged LoRA of a run as one file in diffusers' layout, half precision.

    Its header says that it is distilled, by which `freeprompt.load` knows to begin at pure noise
    and to take few steps without guidance.

    Args:
        preset: Sizes of the run.
        folder: The run.
        teacher: The pipeline it was distilled from.
        output: The .safetensors file.
        rank: Cut to this rank what was trained with a higher one; None leaves it.

    Returns:
        Its size in bytes.

    Raises:
        ConfigError: if the run has no checkpoint.
        ModelError: if the teacher cannot be loaded.
    """
    averages = load_checkpoint(folder)["ema"]
    unet = load_pipeline(teacher, torch.device("cpu")).unet.requires_grad_(False)
    lora = add_lora(unet, preset.lcm)
    for parameter, average in zip(lora.parameters(), averages, strict=True):
        parameter.data = average
    state = imported_peft().get_peft_model_state_dict(unet, adapter_name=NAME)
    named = convert_state_dict_to_diffusers(state)
    tensors = {f"unet.{name}": value.float() for name, value in named.items()}
    if rank is not None:
        tensors = cut(tensors, rank)
    output.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    save_file(halves, output, metadata={"format": "pt", "distilled": NAME})
    return output.stat().st_size


def cut(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Bring the pairs of a LoRA to the nearest ones of a lower rank.

    Args:
        tensors: By name, `X.lora_A.weight` (rank, inputs, ...) and `X.lora_B.weight` (outputs,
            rank, ...), as diffusers writes them; of scale 1.
        rank: The rank wanted; pairs of a lower one stay.
    """
    made = {}
    for name, down in tensors.items():
        if ".lora_A." not in name:
            continue
        other = name.replace(".lora_A.", ".lora_B.")
        up = tensors[other]
        left, sizes, right = torch.linalg.svd(up.flatten(1) @ down.flatten(1), full_matrices=False)
        kept, root = min(rank, len(down)), sizes.sqrt()
        made[name] = (root[:kept, None] * right[:kept]).reshape(kept, *down.shape[1:])
        made[other] = (left[:, :kept] * root[:kept]).reshape(len(up), kept, *up.shape[2:])
    return made
