"""Prompts to tokens, with nothing dropped in silence."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from freeprompt.core.words import Spelling
from freeprompt.errors import ConfigError, FreepromptWarning


def tokenize(tokenizer: Any, prompts: Sequence[str], cuts: dict[str, str] | None = None) -> Tensor:
    """Return token ids, (prompts, model_max_length), cut and padded as the text encoder needs.

    Args:
        tokenizer: A CLIP tokenizer.
        prompts: Texts of any length.
        cuts: What was cut off which prompt so far; prompts in it are not warned of again, and new
            ones are entered.

    Raises:
        ConfigError: if a prompt is not text.

    Warns:
        FreepromptWarning: quoting what was cut off a prompt that is too long.
    """
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ConfigError(f"A prompt must be text; got {type(prompt).__name__} {prompt!r}.")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError(f"A prompt must be valid Unicode; got {prompt!r}.")
        _warn_if_cut(tokenizer, prompt, {} if cuts is None else cuts)
    batch = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    ids: Tensor = batch.input_ids
    return ids


def spell(tokenizer: Any, prompt: str) -> Spelling:
    """Return a prompt's words and the tokens that they become; what is cut off has no tokens.

    Words are runs of letters, digits, hyphens and apostrophes; CLIP's tokens never reach across
    their ends, so each can be tokenised by itself.
    """
    limit = tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=True, max_length=limit, verbose=False).input_ids
    words, spans, start = [], [], 1
    for word in re.findall(r"[\w'’-]+|[^\w\s]+", prompt):
        count = len(tokenizer(word, add_special_tokens=False, verbose=False).input_ids)
        stop = min(start + count, len(ids) - 1)
        if stop > start:
            words.append(word)
            spans.append((start, stop))
        start = stop
    return Spelling(
        prompt=prompt,
        pieces=tuple(tokenizer.convert_ids_to_tokens(ids)),
        words=tuple(words),
        spans=tuple(spans),
        length=limit,
    )


def _warn_if_cut(tokenizer: Any, prompt: str, cuts: dict[str, str]) -> None:
    if prompt in cuts:
        return
    limit = tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
    if len(ids) > limit:
        dropped = tokenizer.decode(ids[limit - 1 : -1]).strip()
        cuts[prompt] = (
            f"The prompt has {len(ids)} tokens and the text encoder reads {limit}. "
            f"Dropped: {dropped!r}."
        )
        warnings.warn(cuts[prompt], FreepromptWarning, stacklevel=2)
