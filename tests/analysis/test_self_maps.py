"""Components, points and clusters of self-attention maps whose answer is known."""

import sys

import numpy as np
import pytest

from freeprompt.analysis import SelfMaps
from freeprompt.core import Site
from freeprompt.errors import ConfigError, MissingDependency

GRID = (4, 6)
CELLS = GRID[0] * GRID[1]
HALVES = (np.arange(CELLS) % GRID[1] < 2).astype(int)  # a third on the left, the rest


def site(index, scale=1):
    return Site(
        kind="self", block=f"down.{index}", index=index, scale=scale, halvings=scale - 1, path="x"
    )


def maps_of(*arrays, grids=None, by_step=False, by_head=False):
    grids = grids or (GRID,) * len(arrays)
    return SelfMaps(
        sites=tuple(site(i + 1, scale=1 + (g != GRID)) for i, g in enumerate(grids)),
        grids=tuple(grids),
        arrays=tuple(np.asarray(a, np.float32) for a in arrays),
        steps=tuple(range(len(arrays[0]))),
        by_step=by_step,
        by_head=by_head,
    )


def random_map(seed=0, cells=CELLS):
    raw = np.random.default_rng(seed).random((cells, cells))
    return (raw / raw.sum(1, keepdims=True))[None, None]


def block_map():
    """Each cell looks evenly at the cells of its own half and at no other."""
    same = (HALVES[:, None] == HALVES[None]).astype(float)
    return (same / same.sum(1, keepdims=True))[None, None]


def test_components_are_those_of_the_covariance():
    """A second way to the same: eigenvectors of the centred map's Gram matrix."""
    array = random_map()
    found = maps_of(array).components(4)
    centred = array[0, 0] - array[0, 0].mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    assert found.images.shape == (4, *GRID) and found.images.dtype == np.float32
    for i in range(4):
        wanted = vectors[:, -1 - i]
        assert abs(float(found.images[i].ravel() @ wanted)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.shares, values[::-1][:4] / values.sum(), rtol=1e-4)


def test_the_first_component_shows_the_object():
    found = maps_of(block_map()).components(1)
    sign = np.sign(found.images[0].ravel() - found.images[0].mean())
    assert set(sign[HALVES == 1]) != set(sign[HALVES == 0]) and len(set(sign[HALVES == 1])) == 1
    assert found.shares[0] == pytest.approx(1, abs=1e-6)


def test_the_sign_of_a_component_is_settled():
    found = maps_of(random_map()).components(CELLS)
    flat = found.images.reshape(CELLS, -1)
    assert (flat[np.arange(CELLS), np.abs(flat).argmax(1)] > 0).all()


def test_a_map_without_any_variance_has_components_without_share():
    even = np.full((1, 1, CELLS, CELLS), 1 / CELLS)
    assert maps_of(even).components(2).shares == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "cell"), [(0, 0, 0), (0.999, 0.999, CELLS - 1), (0.5, 0.3, GRID[1] + 3)]
)
def test_points(x, y, cell):
    array = random_map()
    maps = maps_of(array)
    np.testing.assert_allclose(maps.looks_at(x, y).ravel(), array[0, 0, cell], rtol=1e-6)
    np.testing.assert_allclose(maps.seen_by(x, y).ravel(), array[0, 0, :, cell], rtol=1e-6)
    assert maps.looks_at(x, y).sum() == pytest.approx(1, abs=1e-5)


def test_clusters_find_the_groups_that_are_there():
    noisy = 0.9 * block_map() + 0.1 * random_map()
    labels = maps_of(noisy).clusters(2)
    assert labels.shape == GRID
    np.testing.assert_array_equal(labels.ravel(), HALVES)  # 0 is the larger group
    np.testing.assert_array_equal(labels, maps_of(noisy).clusters(2))


def test_more_clusters_than_different_cells_are_no_error():
    assert maps_of(block_map()).clusters(5).max() <= 4


def test_clusters_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingDependency, match=r"freeprompt\[viz\]"):
        maps_of(block_map()).clusters(2)


def test_layers_of_one_grid_are_averaged():
    a, b, coarse = random_map(1), random_map(2), random_map(3, cells=4)
    maps = maps_of(a, b, coarse, grids=(GRID, GRID, (2, 2)))
    matrix, grid = maps.matrix()
    assert grid == GRID
    np.testing.assert_allclose(matrix, (a[0, 0] + b[0, 0]) / 2, atol=1e-7)
    matrix, grid = maps.matrix(sites="self:3")
    assert grid == (2, 2) and matrix.shape == (4, 4)
    assert maps.components(2, sites="self:scale.2").images.shape == (2, 2, 2)


def test_steps_and_heads_are_chosen_or_averaged():
    array = np.concatenate([random_map(i) for i in range(6)]).reshape(3, 2, CELLS, CELLS)
    maps = maps_of(array, by_step=True, by_head=True)
    np.testing.assert_allclose(maps.matrix(step=2, head=1)[0], array[2, 1], atol=1e-7)
    np.testing.assert_allclose(maps.matrix(step=2)[0], array[2].mean(0), atol=1e-7)
    np.testing.assert_allclose(maps.matrix()[0], array.mean((0, 1)), atol=1e-7)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.components(0), "1 to 24 components"),
        (lambda m: m.components(25), "1 to 24 components"),
        (lambda m: m.clusters(1), "2 to 24 clusters"),
        (lambda m: m.looks_at(1, 0), r"\[0, 1\)"),
        (lambda m: m.seen_by(0, -0.1), r"\[0, 1\)"),
        (lambda m: m.matrix(step=0), "by_step=True"),
        (lambda m: m.matrix(sites="self:all"), "4x6, 2x2, whose .* cannot be averaged"),
    ],
)
def test_refusals(call, says):
    maps = maps_of(random_map(), random_map(cells=4), grids=(GRID, (2, 2)))
    with pytest.raises(ConfigError, match=says):
        call(maps)
