"""Textual inversion: a new word whose vectors are found by gradients, as a file of a few kB."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freeprompt.core.loop import Callback
from freeprompt.errors import ConfigError
from freeprompt.finetune.lesson import Trained, begin
from freeprompt.finetune.pictures import Pictures, latents
from freeprompt.finetune.settings import EmbeddingTraining
from freeprompt.finetune.training import Example, Training, frozen, shuffled
from freeprompt.models import UNetModel
from freeprompt.models.adapters import check_token, remembered_words

SDXL_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def train_embedding(
    model: UNetModel,
    pictures: Pictures,
    out: str | Path,
    settings: EmbeddingTraining,
    *,
    checkpoint: str | Path | None = None,
    callback: Callback | None = None,
) -> Trained:
    """Find vectors of a new word for the subject of a few pictures; the model is left as it was.

    What is written is read by `--embedding`, `freeprompt.models.adapted` and diffusers'
    `load_textual_inversion`. The same call writes the same bytes.

    Args:
        model: The model, in float32 or bfloat16.
        pictures: A folder with pictures of the subject, or images.
        out: The .safetensors file to write.
        settings: Word, prompts and numbers.
        checkpoint: File to go on from, if it is there, and to leave the state in; every 100 steps
            and when interrupted. None keeps none.
        callback: Called after every step.

    Raises:
        ConfigError: for settings, a word or pictures that cannot be used, or a checkpoint of
            another run.
        ImageError: for a picture that cannot be read.
        SaveError: if a file cannot be written.
    """
    lesson = begin("textual inversion", model, pictures, out, settings, checkpoint=checkpoint)
    with frozen(model, recompute=settings.recompute), new_word(model, settings) as vectors:
        found = latents(model, lesson.subject, mirror=settings.mirror)
        training = Training(model, vectors, _examples(found, settings), settings.seed, callback)
        # no decay: it would draw vectors to zero, which is no neighbourhood of words
        steps = training.run(settings.steps, settings.rate, lesson.kept, decay=0.0)
        tensors = _named(vectors, settings.token)
    return lesson.written(training, steps, tensors)


def _examples(found: Sequence[Tensor], settings: EmbeddingTraining) -> Any:
    texts, s = settings.texts, settings

    def at(step: int) -> list[Example]:
        numbers = range(step * s.batch, (step + 1) * s.batch)
        return [
            Example(
                found[shuffled(len(found), s.seed, number)],
                texts[shuffled(len(texts), s.seed + 1, number)],
                1 / s.batch,
            )
            for number in numbers
        ]

    return at


def _named(vectors: dict[str, nn.Parameter], token: str) -> dict[str, Tensor]:
    """Return the vectors under the names that loaders expect: the word, or SDXL's two."""
    if len(vectors) == 1:
        return {token: next(iter(vectors.values()))}
    return {SDXL_KEYS[name]: value for name, value in vectors.items()}


class WithNewWord(nn.Module):
    """A table of token vectors with some more at its end, which alone are trained.

    Args:
        table: The table.
        first: Token id of the first new vector.
        start: The new vectors, (vectors, width).
    """

    def __init__(self, table: Any, first: int, start: Tensor):
        super().__init__()
        self.table, self.first = table, first
        self.vectors = nn.Parameter(start.clone())

    @property
    def weight(self) -> Tensor:
        """The table's own vectors, for whoever asks for dtype or device."""
        weight: Tensor = self.table.weight
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look token ids up."""
        known: Tensor = self.table(ids.clamp(max=self.first - 1))
        new = self.vectors[(ids - self.first).clamp(min=0)].to(known)
        return torch.where((ids < self.first)[..., None], known, new)


@contextmanager
def new_word(model: UNetModel, settings: EmbeddingTraining) -> Iterator[dict[str, nn.Parameter]]:
    """Add a word to a pipeline, with vectors like another's; take it away at the end.

    Returns:
        The vectors, by text encoder.

    Raises:
        ConfigError: if the word is known, or the other one has more tokens than there are vectors.
    """
    pipe, found = model.pipe, {}
    with ExitStack() as undo:
        undo.callback(remembered_words(pipe))
        for name in model.TEXT_ENCODERS:
            encoder = getattr(pipe, name)
            tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
            check_token(settings.token, tokenizer, "the new word", "--token '<sks>'")
            table = encoder.get_input_embeddings()
            start = _start(tokenizer, table, settings)
            first = len(tokenizer)
            more = [f"{settings.token}_{i}" for i in range(1, settings.vectors)]
            tokenizer.add_tokens([settings.token, *more])
            with_word = WithNewWord(table, first, start)
            encoder.set_input_embeddings(with_word)
            found[name] = with_word.vectors
        yield found


def _start(tokenizer: Any, table: Any, settings: EmbeddingTraining) -> Tensor:
    """Return the vectors of the word to start from, as often as they are needed."""
    ids = tokenizer(settings.like, add_special_tokens=False, verbose=False).input_ids
    if not ids or len(ids) > settings.vectors:
        raise ConfigError(
            f"{settings.like!r} has {len(ids)} tokens, and the new word {settings.vectors} "
            f"vectors. Start from a word of one token (--like), or take --vectors {len(ids)}."
        )
    chosen = [ids[i % len(ids)] for i in range(settings.vectors)]
    vectors: Tensor = table.weight[chosen].detach().clone()
    return vectors
