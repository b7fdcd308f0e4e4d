"""Probes find what is planted and nothing where nothing is."""

import numpy as np
import pytest

from freeprompt.analysis.probe import (
    LinearProbe,
    MLPProbe,
    held_out,
    hidden_width,
    normalised,
    seed_folds,
    shuffled_labels,
)
from freeprompt.analysis.statistics import rate
from freeprompt.errors import ConfigError

CLASSES, SEEDS, CELLS = 5, 24, 36
PROBES = [LinearProbe, MLPProbe]


def synthetic(kind, rng_seed=0):
    """Maps in [0, 1] with a class told by a place, by the sum alone, by the seed, or not at all."""
    rng = np.random.default_rng(rng_seed)
    y = np.tile(np.arange(CLASSES), SEEDS)
    seeds = np.repeat(np.arange(SEEDS), CLASSES)
    X = rng.random((len(y), CELLS)) * 0.01
    if kind == "place":
        X[np.arange(len(y)), y * 3] += 0.05
    if kind == "sum":
        X *= 2.0 ** y[:, None]
    if kind == "seed":  # the labels follow a fingerprint that belongs to one seed alone
        X += rng.random((SEEDS, CELLS))[seeds] * 0.01
        X[np.arange(len(y)), (y + seeds) % CLASSES] += 0.02
    return X.astype(np.float32), y, seeds


def at_chance(found):
    """Within 2.7 standard deviations of a guess, whatever the interval's own width."""
    return abs(found.value - 1 / CLASSES) < 0.1


def accuracy(probe, X, y, seeds):
    return rate(held_out(probe, X, y, seeds, 4).tolist(), seeds.tolist())


@pytest.mark.parametrize("probe", PROBES)
def test_planted_signal_is_found(probe):
    assert accuracy(probe(), *synthetic("place")).low > 0.8  # chance is 1 in CLASSES


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("kind", ["none", "seed"])
def test_no_signal_is_found_where_there_is_none(probe, kind):
    assert at_chance(accuracy(probe(), *synthetic(kind)))


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_labels_are_chance(probe):
    X, y, seeds = synthetic("place")
    shuffled = shuffled_labels(y, seeds)
    assert sorted(shuffled) == sorted(y)
    for seed in range(SEEDS):
        assert set(shuffled[seeds == seed]) == set(range(CLASSES))
    assert at_chance(accuracy(probe(), X, shuffled, seeds))


def test_normalising_removes_what_only_the_sum_tells():
    X, y, seeds = synthetic("sum")
    assert accuracy(MLPProbe(), X, y, seeds).value > 0.75
    assert at_chance(accuracy(MLPProbe(), normalised(X), y, seeds))
    assert np.allclose(normalised(X).sum(1), 1)
    assert np.all(normalised(np.zeros((2, 3))) == 0)


def test_no_seed_is_in_both_halves():
    _, _, seeds = synthetic("none")
    tested = []
    for train, test in seed_folds(seeds, 5):
        assert not set(seeds[train]) & set(seeds[test])
        assert sorted([*train, *test]) == list(range(len(seeds)))
        tested += test.tolist()
    assert sorted(tested) == list(range(len(seeds)))


def test_a_split_by_sample_would_leak():
    """What the split by seed is for: samples of one seed share a background."""
    rng = np.random.default_rng(3)
    background = rng.random((SEEDS, CELLS)).astype(np.float32)
    seeds = np.repeat(np.arange(SEEDS), CLASSES)
    y = seeds % CLASSES  # a label that only the seed has
    X = background[seeds] + 0.01 * rng.random((len(seeds), CELLS)).astype(np.float32)
    leaking = np.arange(len(seeds))  # every sample counted as a seed of its own
    assert held_out(LinearProbe(), X, y, leaking, 4).mean() > 0.9
    assert held_out(LinearProbe(), X, y, seeds, 4).mean() < 0.5


@pytest.mark.parametrize("folds", [1, 25])
def test_folds_that_cannot_be(folds):
    with pytest.raises(ConfigError, match="24 seeds cannot be split"):
        list(seed_folds(synthetic("none")[2], folds))


@pytest.mark.parametrize("probe", PROBES)
class TestConventions:
    def test_learned_attributes(self, probe):
        X, y, _ = synthetic("place")
        names = np.array(["red", "green", "blue", "black", "white"])[y]
        fitted = probe(updates=200)
        with pytest.raises(ConfigError, match="call fit"):
            fitted.predict(X)
        assert fitted.fit(X, names) is fitted
        assert list(fitted.classes_) == sorted(set(names))
        assert fitted.n_features_in_ == CELLS
        assert set(fitted.predict(X)) <= set(names)
        assert fitted.score(X, names) > 0.9
        assert np.allclose(fitted.predict_proba(X).sum(1), 1, atol=1e-5)

    def test_parameters_as_scikit_learn_clones_them(self, probe):
        original = probe(updates=3, seed=4)
        original.fit(*synthetic("place")[:2])
        copy = type(original)(**original.get_params())
        assert copy.get_params() == original.get_params()
        assert not hasattr(copy, "network_")
        assert original.set_params(updates=5).get_params()["updates"] == 5
        with pytest.raises(ConfigError, match="no parameter 'depth'"):
            original.set_params(depth=3)

    def test_scikit_learn_takes_it(self, probe):
        base = pytest.importorskip("sklearn.base")
        copy = base.clone(probe(updates=7, seed=3))
        assert isinstance(copy, probe)
        assert copy.get_params() == probe(updates=7, seed=3).get_params()

    def test_the_same_seed_gives_the_same_probe(self, probe):
        import torch

        X, y, _ = synthetic("place")
        before = torch.random.get_rng_state()
        first, second = (probe(updates=3).fit(X, y).predict_proba(X) for _ in range(2))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, probe(updates=3, seed=1).fit(X, y).predict_proba(X))
        assert torch.equal(before, torch.random.get_rng_state())

    def test_wrong_shapes(self, probe):
        X, y, _ = synthetic("place")
        with pytest.raises(ConfigError, match="samples, features"):
            probe().fit(X[0], y)
        with pytest.raises(ConfigError, match="36 features"):
            probe(updates=1).fit(X, y).predict(X[:, :5])


def test_a_constant_feature_is_no_signal():
    """Rounding noise of a feature that never varies must not become one of unit variance."""
    X, y, seeds = synthetic("none")
    X[:, 0] = 0.5 + y * 3e-8
    assert at_chance(accuracy(LinearProbe(), X, y, seeds))


def test_the_papers_width():
    assert hidden_width(4096) == 2048
    assert hidden_width(256) == 128
    assert hidden_width(65536) == 8192
    network = MLPProbe(updates=1).fit(*synthetic("none")[:2]).network_
    assert [type(layer).__name__ for layer in network] == ["Dropout", "Linear", "Tanh", "Linear"]
    assert network[0].p == 0.1
    assert (network[1].in_features, network[1].out_features) == (36, 18)
