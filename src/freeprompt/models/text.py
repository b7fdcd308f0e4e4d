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
        [spelled_out(tokenizer, prompt) for prompt in prompts],
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
    their ends, so each can be tokenised by itself. A word that was learned by textual inversion is
    one word, however many vectors it has.
    """
    limit = tokenizer.model_max_length
    learned = [re.escape(word) for word in learned_words(tokenizer)]
    whole = spelled_out(tokenizer, prompt)
    ids = tokenizer(whole, truncation=True, max_length=limit, verbose=False).input_ids
    words, spans, start = [], [], 1
    for word in re.findall("|".join([*learned, r"[\w'’-]+|[^\w\s]+"]), prompt):
        part = spelled_out(tokenizer, word)
        count = len(tokenizer(part, add_special_tokens=False, verbose=False).input_ids)
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


def learned_words(tokenizer: Any) -> dict[str, int]:
    """Return the words that were added by textual inversion, each with its number of vectors.

    The first vector has the word itself as its token; the others are `word_1`, `word_2`, ...
    """
    special = set(tokenizer.all_special_tokens)
    added = {token for token in tokenizer.added_tokens_encoder if token not in special}
    first = [token for token in added if _stem(token) not in added]
    longest = sorted(first, key=len, reverse=True)  # so that none is taken for the start of another
    return {word: 1 + sum(_stem(token) == word for token in added) for word in longest}


def _stem(token: str) -> str | None:
    """Return the word that a token is a further vector of, by its name."""
    numbered = re.fullmatch(r"(.+)_[1-9]\d*", token)
    return numbered[1] if numbered else None


def spelled_out(tokenizer: Any, prompt: str) -> str:
    """Return a prompt in which each learned word stands with all its tokens."""
    learned = learned_words(tokenizer)
    if not learned:
        return prompt

    def whole(found: re.Match[str]) -> str:
        word = found[0]
        return " ".join([word, *(f"{word}_{i}" for i in range(1, learned[word]))])

    return re.sub("|".join(map(re.escape, learned)), whole, prompt)


def _warn_if_cut(tokenizer: Any, prompt: str, cuts: dict[str, str]) -> None:
    if prompt in cuts:
        return
    limit = tokenizer.model_max_length
    whole = spelled_out(tokenizer, prompt)
    ids = tokenizer(whole, truncation=False, verbose=False).input_ids
    if len(ids) > limit:
        dropped = tokenizer.decode(ids[limit - 1 : -1]).strip()
        cuts[prompt] = (
            f"The prompt has {len(ids)} tokens and the text encoder reads {limit}. "
            f"Dropped: {dropped!r}."
        )
        warnings.warn(cuts[prompt], FreepromptWarning, stacklevel=2)
