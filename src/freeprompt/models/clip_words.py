"""CLIP's tokenizer from the vocabulary that comes with the package: checkpoints hold none."""

import gzip
from functools import cache
from typing import Any

from freeprompt.models.places import CONFIGS

MERGES = CONFIGS / "bpe_simple_vocab_16e6.txt.gz"
WORDS = 49408  # 256 bytes, each also as the end of a word, the merges, start and end of a text


def clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    """Return the tokenizer of CLIP, which every Stable Diffusion 1, 2 and XL uses.

    Args:
        pad: What fills a prompt up: the end of text for OpenAI's CLIP, `!` for OpenCLIP.

    Source: Radford et al., arXiv:2103.00020; byte-pair encoding with an end-of-word mark.
    """
    from transformers import CLIPTokenizer

    merges = _merges()
    letters = _letters()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), pad_token=pad, model_max_length=77)


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    used = lines[1 : 1 + WORDS - 2 * 256 - 2]  # after the title; the rest of the file is not CLIP's
    return tuple((left, right) for left, right in (line.split() for line in used))


def _letters() -> list[str]:
    """Return a printable character for each byte, in CLIP's order: printable bytes come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]
