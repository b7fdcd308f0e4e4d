"""Which batch row is what: branch, half and item, as a value instead of a convention."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from freeprompt.errors import ConfigError, MissingSource

Branch = Literal["source", "target"]
Half = Literal["cond", "uncond", "both"]
HALVES: tuple[Half, ...] = ("cond", "uncond", "both")


@dataclass(frozen=True)
class Text:
    """Encoded prompts: one row an item.

    Attributes:
        states: Hidden states that cross-attention reads, (items, tokens, width).
        extras: Further per-item tensors that a model family needs (pooled embeddings, sizes).
    """

    states: Float[Tensor, "items tokens width"]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, item: int) -> "Text":
        """Return one item, as a `Text` of length 1."""
        rows = slice(item, item + 1)
        return Text(self.states[rows], {name: x[rows] for name, x in self.extras.items()})

    @staticmethod
    def stack(items: "list[Text]") -> "Text":
        """Concatenate along the items."""
        extras = {name: torch.cat([t.extras[name] for t in items]) for name in items[0].extras}
        return Text(torch.cat([t.states for t in items]), extras)


@dataclass(frozen=True)
class Row:
    """One batch row.

    Attributes:
        branch: Which branch's latents it has.
        conditional: Whether it has a prompt, or the unconditional embedding.
        item: Which item of the branch.
        entry: Which of the branch's prompts, if not the item's own: an item may have several
            conditional rows, one a prompt.
    """

    branch: Branch
    conditional: bool
    item: int = 0
    entry: int | None = None


@dataclass(frozen=True)
class Rows:
    """The layout of a batch.

    State in a loop is `{"source": x, "target": x}` with one entry an item; `spread` turns it into
    the batch that the network sees and `guide` turns the network's answer back.
    """

    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """Branches that have rows, source first."""
        present = {row.branch for row in self.rows}
        return tuple(branch for branch in ("source", "target") if branch in present)

    def with_targets(self, count: int) -> "Rows":
        """Repeat every target row for `count` target items, halves staying together."""
        return Rows(
            tuple(
                replace(row, item=item)
                for row in self.rows
                for item in range(count if row.branch == "target" else 1)
            )
        )

    def without(self, *, branch: Branch | None = None, half: Half | None = None) -> "Rows":
        """Drop the rows that match every given property.

        Raises:
            ConfigError: if `half` is not one of cond, uncond, both.
        """
        keep = [
            row
            for i, row in enumerate(self.rows)
            if (branch is not None and row.branch != branch)
            or (half is not None and i not in self.find(row.branch, half))
        ]
        return Rows(tuple(keep))

    def targets(self, half: Half = "both") -> tuple[int, ...]:
        """Return the batch indices of the target rows in `half`."""
        return self.find("target", half)

    def sources(self, half: Half = "both") -> tuple[int, ...]:
        """Return the batch indices of the source rows in `half`."""
        return self.find("source", half)

    def find(self, branch: Branch, half: Half = "both") -> tuple[int, ...]:
        """Return the batch indices of the rows of `branch` in `half`.

        Raises:
            ConfigError: if `half` is not one of cond, uncond, both.
        """
        if half not in HALVES:
            raise ConfigError(f"half must be one of {', '.join(HALVES)}; got {half!r}.")
        return tuple(
            i
            for i, row in enumerate(self.rows)
            if row.branch == branch and half in ("both", "cond" if row.conditional else "uncond")
        )

    def source_of(self, index: int, *, cond: bool | None = None) -> int:
        """Return the batch index of the source row that row `index` takes from.

        That is the source row of the same half, or the only source row where there is but one.

        Args:
            index: Batch index of the taking row.
            cond: Ask for the conditional (True) or unconditional (False) source row instead.

        Raises:
            MissingSource: if the batch has no source row.
        """
        sources = self.sources()
        if not sources:
            raise MissingSource(
                "This batch has no source row to take from, and no tape was given. "
                "Add source rows, or record a tape first."
            )
        half = self.rows[index].conditional if cond is None else cond
        same = [i for i in sources if self.rows[i].conditional == half]
        return same[0] if same else sources[0]

    def spread(
        self, state: Mapping[Branch, Float[Tensor, "items channels height width"]]
    ) -> Float[Tensor, "batch channels height width"]:
        """Lay out the branches' latents as the batch that the network sees."""
        return torch.stack([state[row.branch][row.item] for row in self.rows])

    def embeddings(self, text: Mapping[Branch, Text], null: Text) -> Text:
        """Return the text of every row: the branch's prompt, or `null` on unconditional rows.

        Args:
            text: One `Text` a branch, one entry an item, or as many as its rows name.
            null: The unconditional embedding; one entry for all rows, or one a target item.
        """
        return Text.stack(
            [
                text[row.branch][row.item if row.entry is None else row.entry]
                if row.conditional
                else null[row.item if len(null) > 1 else 0]
                for row in self.rows
            ]
        )

    def guide(
        self, prediction: Float[Tensor, "batch channels height width"], guidance: float
    ) -> dict[Branch, Float[Tensor, "items channels height width"]]:
        """Combine the halves: `uncond + guidance * (cond - uncond)`, or what there is of them.

        Several conditional rows of an item pull side by side: their differences add up, as in
        Liu et al., arXiv:2206.01714.
        """
        out: dict[Branch, Tensor] = {}
        for branch in self.branches:
            uncond = prediction[list(self.find(branch, "uncond"))]
            if not len(uncond):
                out[branch] = prediction[list(self.find(branch, "cond"))]
                continue
            pulls = [
                prediction[list(rows)] - uncond[item]
                for item, rows in enumerate(self.prompted(branch))
            ]
            out[branch] = uncond + guidance * torch.stack([pull.sum(0) for pull in pulls])
        return out

    def prompted(self, branch: Branch) -> tuple[tuple[int, ...], ...]:
        """Return the batch indices of the conditional rows of each item of `branch`."""
        found = self.find(branch, "cond")
        items = sorted({self.rows[i].item for i in found})
        return tuple(tuple(i for i in found if self.rows[i].item == item) for item in items)


def _rows(*rows: tuple[Branch, bool]) -> Rows:
    return Rows(tuple(Row(branch, conditional) for branch, conditional in rows))


PAIR = _rows(("source", False), ("target", False), ("source", True), ("target", True))
"""Both branches with both halves: P2P, FPE and MasaCtrl on generated images."""
TRIPLE = _rows(("source", True), ("target", False), ("target", True))
"""One conditional source row that feeds both target halves: PnP, and FPE on real images."""
TARGET = _rows(("target", False), ("target", True))
"""Plain generation of the target."""
SOURCE = _rows(("source", True))
"""The source alone, without guidance: inversion and reconstruction."""
