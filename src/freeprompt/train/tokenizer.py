"""The tokenizer of emoji-sd: CLIP's, with Emoji World's words as its only whole words."""

from collections.abc import Iterable
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from freeprompt.errors import ConfigError

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def _merged(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Apply byte-pair merges, earliest first, as the tokenizer will."""
    while known := [pair for pair in pairwise(pieces) if pair in ranks]:
        at = list(pairwise(pieces)).index(min(known, key=ranks.__getitem__))
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
    return pieces


def merges_for(words: Iterable[str]) -> list[tuple[str, str]]:
    """List the merges that make each word one token.

    A later merge never acts on a word that the earlier ones already join, so it is enough to run
    the merges so far on a word and to join what is left of it from left to right.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _merged([*word[:-1], word[-1] + "</w>"], ranks)
        joined = pieces[0]
        for piece in pieces[1:]:
            ranks.setdefault((joined, piece), len(ranks))
            joined += piece
    return list(ranks)


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Build a CLIP tokenizer in which each word is one token and other words fall into bytes.

    Like Stable Diffusion 1's it pads to 77 tokens with the end token.

    Args:
        words: Lower-case words of letters, or single punctuation marks.

    Raises:
        ConfigError: for a word that CLIP's own rules would split, such as one with a hyphen.
    """
    words = list(words)
    for word in words:
        if not (word.isalpha() and word.islower()) and (len(word) != 1 or word.isspace()):
            raise ConfigError(
                f"{word!r} cannot be one token: CLIP splits words at everything but letters, "
                "and knows lower case only."
            )
    merges = merges_for(words)
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        model_max_length=LENGTH,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )
