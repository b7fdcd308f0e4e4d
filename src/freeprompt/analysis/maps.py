"""What was seen: attention maps as float32 arrays with named axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from freeprompt.analysis.reduce import Array, Watch, WatchCross
from freeprompt.core import Site, Sites
from freeprompt.errors import ConfigError, unknown

if TYPE_CHECKING:
    from freeprompt.analysis.self_maps import Components, Labels, SelfMaps

Selection = Sites | str | None


def resample(maps: Array, size: tuple[int, int]) -> Array:
    """Bring maps (..., height, width) to another grid, bilinearly and antialiased.

    Maps that sum to 1 over words still do: the weights of each new cell sum to 1.
    """
    maps = maps.astype(np.float32, copy=False)
    if maps.shape[-2:] == size:
        return maps
    flat = torch.from_numpy(np.ascontiguousarray(maps)).reshape(-1, 1, *maps.shape[-2:])
    large = F.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=True)
    found: Array = large.reshape(*maps.shape[:-2], *size).numpy()
    return found


@dataclass(frozen=True, kw_only=True)
class SiteMaps:
    """Maps of one batch row at some sites, whose grids differ.

    Attributes:
        sites: Where, in execution order.
        grids: (height, width) of each site's grid.
        arrays: For each site float32 with axes (step, head, ...); an axis that was averaged has
            length 1. Cross maps of every step and every head are float16.
        steps: The steps that were seen.
        by_step: Whether the step axis holds single steps.
        by_head: Whether the head axis holds single heads.
    """

    axes: ClassVar[tuple[str, ...]]

    sites: tuple[Site, ...]
    grids: tuple[tuple[int, int], ...]
    arrays: tuple[Array, ...] = field(repr=False)
    steps: tuple[int, ...]
    by_step: bool
    by_head: bool

    @classmethod
    def of_watch(cls, watch: Watch, **more: Any) -> Self:
        """Collect what an observer has kept.

        Raises:
            ControlNeverFired: if its row was never in the batch.
        """
        found = watch.found()
        grids = tuple(kept.grid for kept in found.values())
        shape = [cls._shape(kept.array(), kept.grid) for kept in found.values()]
        return cls(
            sites=tuple(found),
            grids=grids,
            arrays=tuple(shape),
            steps=tuple(sorted(next(iter(found.values())).seen)),
            by_step=watch.by_step,
            by_head=watch.by_head,
            **more,
        )

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(array.nbytes for array in self.arrays)

    @staticmethod
    def _shape(array: Array, grid: tuple[int, int]) -> Array:
        return array

    def chosen(self, sites: Selection = None) -> list[int]:
        """Return the positions of the sites that an expression selects; None selects all.

        Raises:
            ControlNeverFired: if it selects none of those that were collected.
            BadSiteExpression: if it cannot be read.
        """
        if sites is None:
            return list(range(len(self.sites)))
        wanted = sites if isinstance(sites, Sites) else Sites(sites)
        found = set(wanted.select(self.sites, "the collected maps"))
        return [i for i, site in enumerate(self.sites) if site in found]

    def _reduced(self, array: Array, step: int | None, head: int | None) -> Array:
        """Return one site's maps of a step and head, None meaning the mean over them."""
        if step is None:
            per_step = array.mean(0, dtype=np.float32)
        else:
            per_step = array[self._step(step)].astype(np.float32, copy=False)
        return per_step.mean(0) if head is None else per_step[self._head(head, len(per_step))]  # type: ignore[no-any-return]

    def _step(self, step: int) -> int:
        if not self.by_step:
            raise ConfigError(
                f"Step {step} was asked for, but the maps were averaged over steps. Collect them "
                "with by_step=True."
            )
        if step not in self.steps:
            raise ConfigError(f"Step {step} was not seen; seen were {ranges(self.steps)}.")
        return self.steps.index(step)

    def _head(self, head: int, heads: int) -> int:
        if not self.by_head:
            raise ConfigError(
                f"Head {head} was asked for, but the maps were averaged over heads. Collect them "
                "with by_head=True."
            )
        if not 0 <= head < heads:
            raise ConfigError(f"Heads are numbered 0 to {heads - 1} here; got {head}.")
        return head


@dataclass(frozen=True, kw_only=True)
class CrossMaps(SiteMaps):
    """Cross-attention maps by word, (step, head, word, height, width) a site.

    A value is the probability with which a cell looks at a word: in [0, 1], and the sum over all
    words, `<start>`, `<end>` and `<pad>` is 1.

    Attributes:
        words: What the word axis holds.
    """

    axes = ("site", "step", "head", "word", "height", "width")

    words: tuple[str, ...]

    @classmethod
    def of_cross(cls, watch: WatchCross) -> Self:
        """Collect what an observer has kept."""
        return cls.of_watch(watch, words=tuple(watch.words))

    @staticmethod
    def _shape(array: Array, grid: tuple[int, int]) -> Array:
        return array.reshape(*array.shape[:-1], *grid)

    def of(
        self,
        word: str,
        *,
        sites: Selection = None,
        step: int | None = None,
        head: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> Array:
        """Return one word's map, the mean over sites, steps and heads, (height, width).

        Args:
            word: One of `words`, in any case.
            sites: Which sites, such as `"cross:3,7,12"`; None means all that were collected.
            step: One step; None means their mean.
            head: One head, counted from 0; None means their mean.
            size: (height, width) of the result; None means the finest of the sites' grids.

        Raises:
            ConfigError: for a word, step or head that was not collected.
            ControlNeverFired: if `sites` selects nothing.
        """
        number, chosen = self._number(word), self.chosen(sites)
        size = self._finest(chosen) if size is None else size
        found = [resample(self._reduced(self.arrays[i], step, head)[number], size) for i in chosen]
        mean: Array = np.mean(found, axis=0, dtype=np.float32)
        return mean

    def numpy(self, size: tuple[int, int] | None = None) -> Array:
        """Return everything on one grid: (site, step, head, word, height, width) float32.

        Args:
            size: (height, width); None means the finest grid.

        Raises:
            ConfigError: if the sites have different numbers of heads.
        """
        size = self._finest(self.chosen()) if size is None else size
        heads = {array.shape[1] for array in self.arrays}
        if len(heads) > 1:
            raise ConfigError(
                f"The layers have {', '.join(map(str, sorted(heads)))} heads, which do not fit "
                "into one array. Use .arrays, one for each site, or by_head=False."
            )
        found: Array = np.stack([resample(array, size) for array in self.arrays])
        return found

    def _number(self, word: str) -> int:
        wanted = word.strip().lower()
        plain = [w.lower() for w in self.words]
        if wanted not in plain:
            raise unknown(ConfigError, "word: these maps were collected without", word, self.words)
        return plain.index(wanted)

    def _finest(self, chosen: Sequence[int]) -> tuple[int, int]:
        return max((self.grids[i] for i in chosen), key=lambda grid: grid[0] * grid[1])


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """What the attention of one picture looked like while it was made.

    Attributes:
        prompt: Its prompt.
        role: `generated`, `real`, `source` or `target`.
        image: The picture, at the size the model works at.
        cross_maps: Maps by word, or None if none were collected.
        self_maps: Self-attention maps, or None if none were collected.
        targets: Of a watched edit, the same for each target; this is then the source.
        settings: Model, seed and whatever else makes the same maps again.
    """

    prompt: str
    role: str
    image: Image.Image
    cross_maps: CrossMaps | None
    self_maps: "SelfMaps | None"
    targets: tuple["AttentionMaps", ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def pictures(self) -> tuple["AttentionMaps", ...]:
        """This one and its targets."""
        return (self, *self.targets)

    @property
    def words(self) -> tuple[str, ...]:
        """The words whose maps were collected."""
        return self.cross_maps.words if self.cross_maps else ()

    @property
    def nbytes(self) -> int:
        """Memory that the maps hold, in bytes, those of the targets included."""
        found = [maps for p in self.pictures for maps in (p.cross_maps, p.self_maps) if maps]
        return sum(maps.nbytes for maps in found)

    @property
    def cross(self) -> CrossMaps:
        """The maps by word.

        Raises:
            ConfigError: if none were collected.
        """
        if self.cross_maps is None:
            raise ConfigError(
                f"No cross-attention maps were collected of {self.prompt!r}: its words or cross "
                "sites were left out. Ask for sites='cross:all' and for words of the prompt."
            )
        return self.cross_maps

    @property
    def own(self) -> "SelfMaps":
        """The self-attention maps.

        Raises:
            ConfigError: if none were collected.
        """
        if self.self_maps is None:
            raise ConfigError(
                "No self-attention maps were collected. Ask for some, for example with "
                "sites='cross:all+self:below-top'."
            )
        return self.self_maps

    def of(self, word: str, **which: Any) -> Array:
        """Return one word's map, (height, width); see `CrossMaps.of`."""
        return self.cross.of(word, **which)

    def numpy(self, size: tuple[int, int] | None = None) -> Array:
        """Return all cross maps on one grid; see `CrossMaps.numpy`."""
        return self.cross.numpy(size)

    def components(self, count: int = 6, **which: Any) -> "Components":
        """Return the principal components of self-attention; see `SelfMaps.components`."""
        return self.own.components(count, **which)

    def looks_at(self, x: float, y: float, **which: Any) -> Array:
        """Return where the pixel (x, y) of `image` looks, (height, width); sums to 1."""
        return self.own.looks_at(*self._fraction(x, y), **which)

    def seen_by(self, x: float, y: float, **which: Any) -> Array:
        """Return who looks at the pixel (x, y) of `image`, (height, width), each in [0, 1]."""
        return self.own.seen_by(*self._fraction(x, y), **which)

    def clusters(self, count: int = 5, **which: Any) -> "Labels":
        """Return groups of pixels that look at the same; see `SelfMaps.clusters`."""
        return self.own.clusters(count, **which)

    def save(self, path: str | Path) -> Path:
        """Write everything, pictures and targets included, as `.safetensors` or `.npz`.

        Raises:
            ConfigError: for another suffix.
            SaveError: if it cannot be written.
        """
        from freeprompt.analysis.archive import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "AttentionMaps":
        """Read what `save` wrote.

        Raises:
            ConfigError: if the file is missing or holds no maps.
        """
        from freeprompt.analysis.archive import load

        return load(path)

    def _fraction(self, x: float, y: float) -> tuple[float, float]:
        width, height = self.image.size
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(
                f"The point must lie in the picture of {width}x{height} pixels: x from 0 to "
                f"{width - 1}, y from 0 to {height - 1}; got ({x:g}, {y:g})."
            )
        return x / width, y / height


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, such as `0-9, 12`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
