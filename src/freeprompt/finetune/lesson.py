"""What both kinds of training begin with and end with: checks beforehand, a file afterwards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from freeprompt.core.fitting import Kept
from freeprompt.finetune.files import check_out, write
from freeprompt.finetune.pictures import Pictures, opened
from freeprompt.finetune.settings import EmbeddingTraining, LoraTraining
from freeprompt.finetune.training import Training, check_trainable
from freeprompt.models import UNetModel
from freeprompt.picture import Picture

EVERY = 100
Settings = LoraTraining | EmbeddingTraining


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a training.

    Attributes:
        file: What was written.
        sha256: Of its contents.
        steps: Gradient steps, those of earlier runs included.
        sample_forwards: Samples that the denoiser evaluated in this run; each one of the training
            has a backward pass beside it, which is not counted.
        loss_before: Mean loss over the first tenth of this run's steps; nan if there were none.
        loss_after: Mean loss over its last tenth.
    """

    file: Path
    sha256: str
    steps: int
    sample_forwards: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A subject to be taught, with everything about it checked.

    Attributes:
        model: The model.
        file: Where the result goes.
        subject: Pictures of the subject.
        others: Pictures of others of its kind; None where none were given.
        kept: Where the training's state is kept; None for nowhere.
        about: What the result is to say of itself, beside its steps.
        forwards_before: The model's `sample_forwards` when it began.
    """

    model: UNetModel
    file: Path
    subject: Sequence[Picture]
    others: Sequence[Picture] | None
    kept: Kept | None
    about: Mapping[str, Any]
    forwards_before: int

    def written(self, training: Training, steps: int, tensors: Mapping[str, Tensor]) -> Trained:
        """Write what was learnt, after `steps` steps in all, and say what came of it.

        Raises:
            SaveError: if the file cannot be written.
        """
        return Trained(
            file=self.file,
            sha256=write(self.file, tensors, {**self.about, "steps": steps}),
            steps=steps,
            sample_forwards=self.model.sample_forwards - self.forwards_before,
            loss_before=training.mean_loss(first=True),
            loss_after=training.mean_loss(first=False),
        )


def begin(
    kind: str,
    model: UNetModel,
    pictures: Pictures,
    out: str | Path,
    settings: Settings,
    *,
    class_pictures: Pictures | None = None,
    checkpoint: str | Path | None = None,
) -> Lesson:
    """Check all that is asked for, before any work.

    Args:
        kind: What is trained, as the result says it.
        model: The model.
        pictures: Those of the subject.
        out: The file to write.
        settings: Prompts and numbers.
        class_pictures: Pictures of others of its kind.
        checkpoint: File to keep the state in.

    Raises:
        ConfigError: for a file, settings, a model or pictures that cannot be used.
        ImageError: for a picture that cannot be read.
        UnsupportedModel: if the model is no text-to-image model.
    """
    path = check_out(out)
    settings.check()
    check_trainable(model)
    subject = opened(pictures)
    others = None if class_pictures is None else opened(class_pictures, "the class")
    key = _key(model, [*subject, *(others or [])], settings)
    return Lesson(
        model=model,
        file=path,
        subject=subject,
        others=others,
        kept=None if checkpoint is None else Kept(file=Path(checkpoint), key=key, every=EVERY),
        about={
            "kind": kind,
            "model": Path(model.name).name,
            "model_fingerprint": model.fingerprint(),
            "pictures": [picture.sha256 for picture in subject],
            "settings": settings.to_dict(),
        },
        forwards_before=model.sample_forwards,
    )


def _key(model: UNetModel, pictures: Sequence[Picture], settings: Settings) -> str:
    """Return what a checkpoint depends on: all but the number of steps."""
    known = replace(settings, steps=1)
    said = repr((model.fingerprint(), [picture.sha256 for picture in pictures], known))
    return hashlib.sha256(said.encode()).hexdigest()
