"""DreamBooth with LoRA, through peft: a word for one subject as a small file of updates."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from freeprompt.core.loop import Callback
from freeprompt.finetune.lesson import Trained, begin
from freeprompt.finetune.pictures import Pictures, drawn, latents
from freeprompt.finetune.settings import LoraTraining
from freeprompt.finetune.training import Example, Training, frozen, shuffled
from freeprompt.models import UNetModel
from freeprompt.models.adapters import check_can_take_lora
from freeprompt.models.stored import open_weights
from freeprompt.picture import Picture

NAME = "freeprompt_training"
UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]


def train_lora(
    model: UNetModel,
    pictures: Pictures,
    out: str | Path,
    settings: LoraTraining,
    *,
    class_pictures: Pictures | None = None,
    checkpoint: str | Path | None = None,
    callback: Callback | None = None,
) -> Trained:
    """Teach a model a word for the subject of a few pictures; the model is left as it was.

    What is written is read by `--lora`, `freeprompt.models.adapted` and diffusers'
    `load_lora_weights`. The same call writes the same bytes.

    Args:
        model: The model, in float32 or bfloat16.
        pictures: A folder with pictures of the subject, or images.
        out: The .safetensors file to write.
        settings: Prompts and numbers.
        class_pictures: Pictures of others of its kind, instead of drawing them.
        checkpoint: File to go on from, if it is there, and to leave the state in; every 100 steps
            and when interrupted. None keeps none.
        callback: Called after every step.

    Raises:
        ConfigError: for settings or pictures that cannot be used, or a checkpoint of another run.
        ImageError: for a picture that cannot be read.
        MissingDependency: if peft is not installed.
        SaveError: if a file cannot be written.
    """
    check_can_take_lora(model.pipe)
    lesson = begin(
        "DreamBooth LoRA",
        model,
        pictures,
        out,
        settings,
        class_pictures=class_pictures,
        checkpoint=checkpoint,
    )
    with frozen(model, recompute=settings.recompute):
        examples = _Examples(model, settings, lesson.subject, lesson.others, callback)
        with _added(model, settings) as parts:
            weights = {
                f"{part}.{name}": parameter
                for part, module in parts.items()
                for name, parameter in module.named_parameters()
                if f".{NAME}." in name
            }
            training = Training(model, weights, examples, settings.seed, callback)
            steps = training.run(settings.steps, settings.rate, lesson.kept)
            tensors = _packed(model, parts)
    return lesson.written(training, steps, tensors)


class _Examples:
    """The subject's pictures under its prompt, each with one of its kind under theirs."""

    def __init__(
        self,
        model: UNetModel,
        settings: LoraTraining,
        subject: Sequence[Picture],
        others: Sequence[Picture] | None,
        callback: Callback | None,
    ):
        self.settings = settings
        self.subject = latents(model, subject, mirror=settings.mirror)
        self.others: list[Tensor] = []
        if settings.class_prompt.strip() and others is not None:
            self.others = latents(model, others, mirror=settings.mirror)
        elif settings.class_prompt.strip():
            count, prompt = settings.class_count, settings.class_prompt
            self.others = drawn(model, prompt, count, settings.seed, callback)

    def __call__(self, step: int) -> list[Example]:
        return [one for i in range(self.settings.batch) for one in self._pair(step, i)]

    def _pair(self, step: int, item: int) -> Iterator[Example]:
        s, number = self.settings, step * self.settings.batch + item
        chosen = self.subject[shuffled(len(self.subject), s.seed, number)]
        yield Example(chosen, s.prompt, 1 / s.batch)
        if self.others:
            other = self.others[shuffled(len(self.others), s.seed, number)]
            yield Example(other, s.class_prompt, s.class_weight / s.batch)


@contextmanager
def _added(model: UNetModel, settings: LoraTraining) -> Iterator[dict[str, Any]]:
    """Add a LoRA that changes nothing yet; take it away at the end."""
    from peft import LoraConfig

    pipe = model.pipe
    wanted = {"unet": UNET_LAYERS}
    wanted |= {name: TEXT_LAYERS for name in model.TEXT_ENCODERS if settings.text}
    parts: dict[str, Any] = {}
    with ExitStack() as undo, torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # peft draws its first values from the global state
        undo.callback(pipe.unload_lora_weights)
        for name, layers in wanted.items():
            part = getattr(pipe, name)
            parts[name] = part = getattr(part, "_orig_mod", part)
            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.rank,
                init_lora_weights="gaussian",
                target_modules=layers,
            )
            part.add_adapter(config, adapter_name=NAME)
        yield parts


def _packed(model: UNetModel, parts: dict[str, Any]) -> dict[str, Tensor]:
    """Return the LoRA in diffusers' own layout, by diffusers' own hand.

    Its scale is not written: it is 1, as every reader takes it to be where nothing is said.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for name, part in parts.items():
        found = get_peft_model_state_dict(part, adapter_name=NAME)
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(found)
    with TemporaryDirectory() as folder:
        type(model.pipe).save_lora_weights(folder, **layers)
        stored = open_weights(next(Path(folder).iterdir()))
        return {name: stored.read(name).clone() for name in stored.shapes}
