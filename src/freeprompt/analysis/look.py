"""What to look at: from words and site expressions to the observers of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from freeprompt.analysis.maps import CrossMaps
from freeprompt.analysis.reduce import (
    BUDGET,
    SPECIAL,
    Spans,
    WatchCross,
    WatchSelf,
    check_grids,
    columns,
    finest_allowed,
)
from freeprompt.analysis.self_maps import SelfMaps
from freeprompt.core import Control, Model, Row, Site, Sites, Window
from freeprompt.core.words import Spelling
from freeprompt.errors import ConfigError, unknown

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Eye:
    """The observers of one batch row.

    Attributes:
        cross: Of its cross-attention, or None.
        own: Of its self-attention, or None.
    """

    cross: WatchCross | None
    own: WatchSelf | None

    @property
    def controls(self) -> list[Control]:
        """The observers, to be attached."""
        return [watch for watch in (self.cross, self.own) if watch is not None]

    @property
    def saw(self) -> bool:
        """Whether the row was ever in the batch."""
        return any(watch.kept for watch in (self.cross, self.own) if watch is not None)

    def maps(self) -> dict[str, Any]:
        """Return what was seen, as the fields of `AttentionMaps`.

        Raises:
            ControlNeverFired: if the row was never in the batch.
        """
        return {
            "cross_maps": None if self.cross is None else CrossMaps.of_cross(self.cross),
            "self_maps": None if self.own is None else SelfMaps.of_watch(self.own),
        }


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is wanted of a run's attention.

    Args:
        model: The model.
        words: Words wanted; None means all of each prompt.
        sites: Where; `auto` means all cross-attention, and self-attention at the finest grid of
            at most 32x32.
        window: When.
        by_step: Keep every step by itself.
        by_head: Keep every head by itself.
        large: Allow what is refused for its size.

    Raises:
        ConfigError: for sites that have no attention maps.
        ControlNeverFired: if `sites` selects nothing.
    """

    model: Model
    words: Sequence[str] | None
    sites: Sites | str
    window: Window
    by_step: bool = False
    by_head: bool = False
    large: bool = False
    _chosen: dict[str, list[Site]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.words, str):
            raise ConfigError(f"words must be a list of words; got {self.words!r}.")
        if self.sites == AUTO:
            return
        sites = self.sites if isinstance(self.sites, Sites) else Sites(self.sites)
        for site in sites.select(self.model.sites, self.model.name):
            self._chosen.setdefault(site.kind, []).append(site)
        if not self._chosen or set(self._chosen) - {"cross", "self"}:
            raise ConfigError(
                f"Attention maps are collected at cross and self sites; {str(sites)!r} selects "
                f"{' and '.join(self._chosen) or 'none'}. Use for example "
                "'cross:all+self:below-top'."
            )

    def eyes(self, rows: Sequence[tuple[Row, str]], latent: tuple[int, int]) -> list[Eye]:
        """Return the observers of each row.

        Args:
            rows: Batch rows, each with the prompt whose tokens it reads.
            latent: (height, width) of the latent.

        Raises:
            ConfigError: for a word that none of the prompts has, or self-attention maps above
                32x32 that were not asked for.
        """
        cross, own = self._sites(latent)
        spellings = [self.model.spell(prompt) for _, prompt in rows]
        words = [self._columns(spelling, spellings) for spelling in spellings]
        return [
            Eye(
                cross=WatchCross(words=found, sites=cross, **self._common(row))
                if cross and found
                else None,
                own=WatchSelf(sites=own, **self._common(row)) if own else None,
            )
            for (row, _), found in zip(rows, words, strict=True)
        ]

    def _common(self, row: Row) -> dict[str, Any]:
        return {
            "row": row,
            "window": self.window,
            "by_step": self.by_step,
            "by_head": self.by_head,
            "steps": len(self.window),
            "budget": None if self.large else BUDGET,
        }

    def _sites(self, latent: tuple[int, int]) -> tuple[Sites, Sites]:
        if self.sites == AUTO:
            return Sites("cross:all"), Sites(finest_allowed(self.model.sites, latent) or "none")
        check_grids(self._chosen.get("self", []), latent, self.large)
        return _numbered("cross", self._chosen), _numbered("self", self._chosen)

    def _columns(self, spelling: Spelling, all_of: Sequence[Spelling]) -> dict[str, Spans]:
        if self.words is None:
            said = [word for word in spelling.words if any(map(str.isalnum, word))]
            return columns(spelling, list({word.lower(): word for word in said}.values()))
        for word in self.words:
            if not any(_has(one, word) for one in all_of):
                prompts = " or ".join(repr(one.prompt) for one in all_of)
                known = {w.lower() for one in all_of for w in one.words}
                raise unknown(ConfigError, f"word in {prompts}:", word, [*known, *SPECIAL])
        return columns(spelling, [word for word in self.words if _has(spelling, word)])


def _has(spelling: Spelling, word: str) -> bool:
    return word in SPECIAL or word.strip().lower() in {w.lower() for w in spelling.words}


def _numbered(kind: str, chosen: dict[str, list[Site]]) -> Sites:
    """Return the chosen sites of one kind as a selection."""
    numbers = ",".join(str(site.index) for site in chosen.get(kind, []))
    return Sites(f"{kind}:{numbers}" if numbers else "none")
