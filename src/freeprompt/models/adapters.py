"""LoRA and textual inversion: added to a pipeline, and taken away without a trace."""

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from freeprompt.errors import ConfigError, MissingDependency, ModelError
from freeprompt.models.brought import bring, file_sha256
from freeprompt.models.distilled import begin_at_noise, plain_items, says_so
from freeprompt.models.kinds import is_embedding, is_lora
from freeprompt.models.stored import Stored, open_weights

Undo = Callable[[], None]


@contextmanager
def adapted(
    pipe: Any,
    *,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
) -> Iterator[Any]:
    """Add LoRAs and embeddings to a pipeline for the length of a with-block.

    Afterwards, also after an exception, its modules hold the very weights they held before.

    Args:
        pipe: The pipeline.
        lora: Files, each with its weight behind a colon if it is not 1; `lcm` is the family's own
            LoRA for few steps, and `lcm=FILE` says of a file that it is such a one.
        embedding: Files, each with its token before an equals sign if it is not in the file.
        allow_pickle: Whether files may be pickles.

    Raises:
        ConfigError: for a weight that is no number, or a pipeline that has LoRAs of its own.
        ModelError: if a file is none, or was made for another model.
        MissingDependency: if peft is not installed.
    """
    with ExitStack() as undo:
        add_adapters(pipe, lora, embedding, allow_pickle, undo)
        yield pipe


def add_adapters(
    pipe: Any,
    lora: Sequence[str | Path],
    embedding: Sequence[str | Path],
    allow_pickle: bool = False,
    undo: ExitStack | None = None,
    offline: bool = False,
) -> None:
    """Add LoRAs and embeddings to a pipeline, for good or until `undo` is closed.

    Raises:
        FreepromptError: as `adapted`.
    """
    with ExitStack() as if_failed:
        if embedding:
            if_failed.callback(remembered_words(pipe))
            for item in embedding:
                if_failed.callback(_add_embedding(pipe, str(item), allow_pickle))
        if lora:
            check_can_take_lora(pipe)
            if_failed.callback(pipe.unload_lora_weights)
            plain, distilled = plain_items(pipe, lora, offline)
            items = [parse_lora(item) for item in plain]
            _add_loras(pipe, items, allow_pickle)
            if distilled or any(says_so(file, allow_pickle) for file, _ in items):
                if_failed.callback(begin_at_noise(pipe))
            for given, (file, weight) in zip(lora, items, strict=True):
                if_failed.callback(bring(pipe, "lora", _about_lora(str(given), file, weight)))
        done = if_failed.pop_all()
    if undo is not None:
        undo.push(done)


def _about_lora(given: str, file: str, weight: float) -> dict[str, Any]:
    """Return what a recipe says of a LoRA: its name as it was given, and its contents."""
    name = parse_lora(given)[0]
    about = {"file": name.removeprefix("lcm="), "sha256": file_sha256(file), "weight": weight}
    return {**about, "lcm": True} if name != file and name.startswith("lcm") else about


def parse_lora(item: str) -> tuple[str, float]:
    """Read `FILE` or `FILE:WEIGHT`.

    Raises:
        ConfigError: for a weight that is no finite number.
    """
    file, colon, weight = item.rpartition(":")
    if not colon or Path(item).exists():
        return item, 1.0
    try:
        number = float(weight)
    except ValueError:
        if re.fullmatch(r"[\w.]+", weight) and file and not re.fullmatch(r"[A-Za-z]", file):
            raise ConfigError(
                f"The weight of a LoRA must be a number, such as 0.8; got {weight!r} in {item!r}."
            ) from None
        return item, 1.0
    if not isfinite(number):
        raise ConfigError(f"The weight of a LoRA must be finite; got {weight!r} in {item!r}.")
    return file, number


def check_can_take_lora(pipe: Any) -> None:
    """Check that LoRAs can be added to a pipeline, and taken away again.

    Raises:
        MissingDependency: if peft is not installed.
        ConfigError: if the pipeline has LoRAs of its own.
    """
    if find_spec("peft") is None:
        raise MissingDependency(
            "LoRA needs the package peft, which is not installed: pip install 'freeprompt[lora]'."
        )
    if pipe.get_list_adapters():
        raise ConfigError(
            "This pipeline has LoRAs of its own already, whose weights would be changed. Add all "
            "of them in one place: here, or in diffusers."
        )


def _add_loras(pipe: Any, items: list[tuple[str, float]], allow_pickle: bool) -> None:
    names = [f"freeprompt_{i}" for i in range(len(items))]
    for name, (file, _) in zip(names, items, strict=True):
        stored = open_weights(file, allow_pickle=allow_pickle)
        if not is_lora(stored):
            raise ModelError(
                f"{file!r} is no LoRA: none of its {len(stored.shapes)} tensors is named as one "
                "half of an update. A whole model is given with --model."
            )
        try:
            with _unsaid():
                _load_lora(pipe, stored, name)
        except Exception as error:  # each library on the way has errors of its own
            raise _misfit(file, pipe, error) from error
        if name not in {n for found in pipe.get_list_adapters().values() for n in found}:
            raise _misfit(file, pipe, "none of its layers is in this model")
    pipe.set_adapters(names, [weight for _, weight in items])


@contextmanager
def _unsaid() -> Iterator[None]:
    """Keep back what the libraries say of parts that a LoRA leaves alone: it is checked here."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def _load_lora(pipe: Any, stored: Stored, name: str) -> None:
    if stored.path.suffix == ".safetensors":  # read by diffusers for the rank and alpha in its head
        pipe.load_lora_weights(
            str(stored.path.parent),
            weight_name=stored.path.name,
            adapter_name=name,
            local_files_only=True,
        )
    else:
        pipe.load_lora_weights({key: stored.read(key) for key in stored.shapes}, adapter_name=name)


def _misfit(file: str, pipe: Any, reason: Any) -> ModelError:
    said = next(iter(str(reason).strip().splitlines()), type(reason).__name__)[:200]
    return ModelError(
        f"The LoRA {file!r} cannot be added to this {type(pipe).__name__}: {said.rstrip('.')}. It "
        "may have been made for another family of models."
    )


def _add_embedding(pipe: Any, item: str, allow_pickle: bool) -> Undo:
    """Add a textual inversion; return what forgets that it was brought."""
    token, equals, file = item.partition("=")
    if not equals or Path(item).exists():
        token, file = "", item
    stored = open_weights(file, allow_pickle=allow_pickle)
    if not is_embedding(stored):
        raise ModelError(
            f"{file!r} is no textual inversion: it holds {len(stored.shapes)} tensors, where one "
            "list of vectors is expected, or two for SDXL."
        )
    token = token or _token_of(stored)
    for suffix, key in _places(pipe, stored):
        tokenizer = getattr(pipe, f"tokenizer{suffix}")
        encoder = getattr(pipe, f"text_encoder{suffix}")
        vectors = stored.read(key)
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        _check_fits(file, token, vectors, tokenizer, encoder)
        pipe.load_textual_inversion(
            {token: vectors}, token=token, tokenizer=tokenizer, text_encoder=encoder
        )
    return bring(pipe, "embedding", {"file": file, "sha256": file_sha256(file), "token": token})


def _token_of(stored: Stored) -> str:
    """Return the token that a file names, or its own name."""
    (first, *_) = stored.shapes
    named = len(stored.shapes) == 1 and first != "emb_params"
    return first if named else stored.path.stem


def _places(pipe: Any, stored: Stored) -> list[tuple[str, str]]:
    """Return which tensor goes into which text encoder."""
    second = getattr(pipe, "text_encoder_2", None) is not None
    if {"clip_l", "clip_g"} <= set(stored.shapes) and second:
        return [("", "clip_l"), ("_2", "clip_g")]
    if len(stored.shapes) == 1 and not second:
        return [("", next(iter(stored.shapes)))]
    raise ModelError(
        f"The embedding {str(stored.path)!r} holds {', '.join(sorted(stored.shapes))}, and this "
        f"{type(pipe).__name__} takes {'clip_l and clip_g' if second else 'one tensor'}. It was "
        "made for another family of models."
    )


def _check_fits(file: str, token: str, vectors: Tensor, tokenizer: Any, encoder: Any) -> None:
    width = encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[1] != width:
        raise ModelError(
            f"The embedding {file!r} has vectors of width {vectors.shape[1]}, and the text encoder "
            f"has {width}. It was made for another family of models."
        )
    check_token(token, tokenizer, f"the token of {file!r}", "--embedding '<token>=FILE'")


def check_token(token: str, tokenizer: Any, what: str, how: str) -> None:
    """Check that a word can become one that stands for learnt vectors.

    Args:
        token: The word.
        tokenizer: Which must not know it.
        what: What it is to be, for the message.
        how: How another one is named.

    Raises:
        ConfigError: if it is none, several, or known.
    """
    known = {token, f"{token}</w>", f"{token.lower()}</w>"} & set(tokenizer.get_vocab())
    if known or not token.strip() or re.search(r"\s", token):
        raise ConfigError(
            f"{token!r} cannot be {what}: it must be one word that the vocabulary "
            f"does not know. Name another one: {how}."
        )


def remembered_words(pipe: Any) -> Undo:
    """Note what knows words in a pipeline; return what brings all of it back."""
    undo = []
    for suffix in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if encoder is None:
            continue
        tokenizer = getattr(pipe, f"tokenizer{suffix}")
        table, words = encoder.get_input_embeddings(), encoder.config.vocab_size
        setattr(pipe, f"tokenizer{suffix}", copy.deepcopy(tokenizer))  # the copy learns the words
        encoder.set_input_embeddings(copy.deepcopy(table))
        undo.append((suffix, tokenizer, encoder, table, words))

    def back() -> None:
        for suffix, tokenizer, encoder, table, words in undo:
            setattr(pipe, f"tokenizer{suffix}", tokenizer)
            encoder.set_input_embeddings(table)
            encoder.config.vocab_size = words

    return back
