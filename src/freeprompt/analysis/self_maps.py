"""Self-attention maps: who looks at whom, main components and groups of pixels."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from freeprompt.analysis.maps import Selection, SiteMaps
from freeprompt.analysis.reduce import Array
from freeprompt.errors import ConfigError, MissingDependency

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Components:
    """Principal components of a self-attention map.

    Attributes:
        images: (component, height, width) float32, each of unit norm. The sign means nothing; it
            is chosen so that the largest value is positive.
        shares: (component,) share of the map's variance that each explains, descending.
    """

    images: Array
    shares: Array


@dataclass(frozen=True, kw_only=True)
class SelfMaps(SiteMaps):
    """Self-attention maps, (step, head, query, key) a site; each row over `key` sums to 1.

    Cells are numbered row by row over the site's grid.
    """

    axes = ("step", "head", "query", "key")

    def matrix(
        self, *, sites: Selection = None, step: int | None = None, head: int | None = None
    ) -> tuple[Array, tuple[int, int]]:
        """Return the mean map of the chosen sites, (query, key), and its grid.

        Args:
            sites: Which sites, all of one grid; None means those of the finest grid collected.
            step: One step; None means their mean.
            head: One head; None means their mean.

        Raises:
            ConfigError: if the chosen sites have different grids.
        """
        chosen = self.chosen(sites)
        grids = dict.fromkeys(self.grids[i] for i in chosen)
        if sites is not None and len(grids) > 1:
            shown = ", ".join(f"{h}x{w}" for h, w in grids)
            raise ConfigError(
                f"{str(sites)!r} selects layers of the grids {shown}, whose self-attention maps "
                "cannot be averaged. Choose one grid, such as 'self:scale.2'."
            )
        grid = max(grids, key=lambda g: g[0] * g[1])
        maps = [self._reduced(self.arrays[i], step, head) for i in chosen if self.grids[i] == grid]
        mean: Array = np.mean(maps, axis=0, dtype=np.float32)
        return mean, grid

    def components(self, count: int = 6, **which: Any) -> Components:
        """Return principal components by singular value decomposition.

        The mean of each row is subtracted, then the right-singular vectors are read as pictures.

        Args:
            count: How many, at most one a cell.
            **which: `sites`, `step` and `head` of `matrix`.

        Source: Liu et al., arXiv:2403.03431, figure 3, whose code is not released; the routine is
        that of the Prompt-to-Prompt code that it is derived from.
        """
        matrix, grid = self.matrix(**which)
        if not 1 <= count <= len(matrix):
            raise ConfigError(
                f"A {grid[0]}x{grid[1]} grid has 1 to {len(matrix)} components; got {count}."
            )
        centred = matrix.astype(np.float64) - matrix.mean(1, keepdims=True, dtype=np.float64)
        _, values, vectors = np.linalg.svd(centred, full_matrices=False)
        rows = vectors[:count]
        peaks = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], axis=1)
        images = (rows * np.sign(peaks)).reshape(count, *grid)
        shares = values[:count] ** 2 / max((values**2).sum(), np.finfo(np.float64).tiny)
        return Components(images=images.astype(np.float32), shares=shares.astype(np.float32))

    def looks_at(self, x: float, y: float, **which: Any) -> Array:
        """Return where a point looks, (height, width), which sums to 1.

        Args:
            x: From the left, as a fraction of the width in [0, 1).
            y: From the top, as a fraction of the height in [0, 1).
            **which: `sites`, `step` and `head` of `matrix`.
        """
        matrix, grid = self.matrix(**which)
        found: Array = matrix[_cell(x, y, grid)].reshape(grid)
        return found

    def seen_by(self, x: float, y: float, **which: Any) -> Array:
        """Return how much each cell looks at a point, (height, width), each in [0, 1]."""
        matrix, grid = self.matrix(**which)
        found: Array = matrix[:, _cell(x, y, grid)].reshape(grid)
        return found

    def clusters(self, count: int = 5, *, seed: int = 0, **which: Any) -> Labels:
        """Group the cells by what they look at: k-means on the rows of the map.

        Args:
            count: Number of groups, from 2 to one a cell.
            seed: Of the initial centres.
            **which: `sites`, `step` and `head` of `matrix`.

        Returns:
            Group numbers, (height, width), 0 being the largest group.

        Raises:
            MissingDependency: without scikit-learn.
        """
        matrix, grid = self.matrix(**which)
        if not 2 <= count <= len(matrix):
            raise ConfigError(
                f"A {grid[0]}x{grid[1]} grid can be cut into 2 to {len(matrix)} clusters; got "
                f"{count}."
            )
        labels = _k_means(matrix, count, seed)
        order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
        rank = np.empty(count, dtype=np.int64)
        rank[order] = np.arange(count)
        found: Labels = rank[labels].reshape(grid)
        return found


def _cell(x: float, y: float, grid: tuple[int, int]) -> int:
    if not (0 <= x < 1 and 0 <= y < 1):
        raise ConfigError(f"A point has coordinates in [0, 1); got ({x:g}, {y:g}).")
    return int(y * grid[0]) * grid[1] + int(x * grid[1])


def _k_means(rows: Array, count: int, seed: int) -> Labels:
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise MissingDependency(
            "Clusters need scikit-learn, which is not installed. Install it with "
            'pip install "freeprompt[viz]".'
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        found: Labels = KMeans(count, n_init=10, random_state=seed).fit_predict(rows)
    return found.astype(np.int64)
