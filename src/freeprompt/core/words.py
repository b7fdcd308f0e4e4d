"""From words to tokens, and from a source prompt's tokens to a target prompt's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.errors import ConfigError, PromptAlignmentError, unknown

Mode = Literal["replace", "refine"]


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """A prompt as the text encoder reads it.

    Attributes:
        prompt: The prompt.
        pieces: Its tokens as text, start and end token included, padding not.
        words: Its words; punctuation counts as words of its own.
        spans: For each word its tokens, [start, stop); several where a word is spelled in pieces.
        length: Number of tokens that the encoder reads, padding included.
    """

    prompt: str
    pieces: tuple[str, ...]
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    length: int

    def tokens_of(self, word: str) -> tuple[int, ...]:
        """Return the tokens of every occurrence of a word, whatever its case.

        Raises:
            ConfigError: if the prompt does not have the word; the message lists those it has.
        """
        plain = [w.lower() for w in self.words]
        wanted = word.strip().lower()
        if wanted not in plain:
            raise unknown(ConfigError, f"word in {self.prompt!r}:", word, dict.fromkeys(plain))
        return tuple(
            token
            for name, (start, stop) in zip(plain, self.spans, strict=True)
            if name == wanted
            for token in range(start, stop)
        )

    @property
    def end(self) -> int:
        """Index of the end token."""
        return len(self.pieces) - 1

    def show(self) -> str:
        """Return the words with their tokens, such as `a(1) giraffe(2,3)`."""
        return " ".join(
            f"{word}({','.join(map(str, range(*span)))})"
            for word, span in zip(self.words, self.spans, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How a target prompt's cross-attention columns are made from the source's.

    The new map is `(source @ matrix) * keep + target * (1 - keep)`.

    Attributes:
        matrix: Column j says which source tokens make up target token j.
        keep: 1 where the target token has a counterpart in the source, 0 where it is new.
    """

    matrix: Float[Tensor, "source target"]
    keep: Float[Tensor, " target"]

    def apply(
        self,
        source: Float[Tensor, "heads query source"],
        target: Float[Tensor, "heads query target"],
    ) -> Float[Tensor, "heads query target"]:
        """Return the new map."""
        matrix, keep = self.matrix.to(source), self.keep.to(source)
        return (source @ matrix) * keep + target * (1 - keep)


def align(source: Spelling, target: Spelling, mode: Mode) -> Alignment:
    """Align two prompts.

    `replace` pairs the words by position, so their numbers must be equal; a word spelled in
    another number of tokens spreads its map evenly. `refine` keeps what both prompts have, in
    order, and leaves new tokens to the target.

    Raises:
        PromptAlignmentError: in mode `replace`, for prompts with different numbers of words.

    Source: Hertz et al., arXiv:2208.01626, sections 3.2 (word swap, prompt refinement).
    """
    return _replacement(source, target) if mode == "replace" else _refinement(source, target)


def _replacement(source: Spelling, target: Spelling) -> Alignment:
    if len(source.words) != len(target.words):
        raise PromptAlignmentError(
            f"Mode 'replace' pairs words by position, but the prompts have {len(source.words)} and "
            f"{len(target.words)} words:\n  source: {source.show()}\n  target: {target.show()}\n"
            "Use prompts with equally many words, or mode 'refine'."
        )
    matrix = _frame(source, target)
    for (a, b), (c, d) in zip(source.spans, target.spans, strict=True):
        if b - a == d - c:
            matrix[range(a, b), range(c, d)] = 1
        else:
            matrix[a:b, c:d] = 1 / (d - c)
    return Alignment(matrix=matrix, keep=torch.ones(target.length))


def _refinement(source: Spelling, target: Spelling) -> Alignment:
    matrix = _frame(source, target)
    pairs = common_subsequence(source.pieces[1:-1], target.pieces[1:-1])
    for i, j in pairs:
        matrix[i + 1, j + 1] = 1
    return Alignment(matrix=matrix, keep=(matrix.sum(0) > 0).float())


def _frame(source: Spelling, target: Spelling) -> Tensor:
    """Pair the start tokens, and the end tokens with the padding that follows them."""
    matrix = torch.zeros(source.length, target.length)
    matrix[0, 0] = 1
    tail = min(source.length - source.end, target.length - target.end)
    matrix[range(source.end, source.end + tail), range(target.end, target.end + tail)] = 1
    # a longer target's last paddings have no partner; the source's last one is as good as any
    matrix[source.length - 1, target.end + tail :] = 1
    return matrix


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Return index pairs of a longest common subsequence (Needleman-Wunsch without penalties)."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            skip = max(best[i + 1][j], best[i][j + 1])
            best[i][j] = max(skip, 1 + best[i + 1][j + 1]) if a[i] == b[j] else skip
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j] and best[i][j] == 1 + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs
