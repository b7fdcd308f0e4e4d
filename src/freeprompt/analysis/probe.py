"""Probes: small classifiers that say what can be read from attention maps.

They follow scikit-learn's conventions (constructor stores, `fit` learns, learned attributes end
with an underscore), so that `sklearn.base.clone`, pipelines and searches take them.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from freeprompt.errors import ConfigError

Floats = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[Any]


class Probe(Protocol):
    """What the studies need of a classifier; scikit-learn's have it too."""

    def fit(self, X: Floats, y: Array) -> Any:
        """Learn from flat maps, (samples, features), and their labels."""

    def predict(self, X: Floats) -> Array:
        """Return a label for each sample."""


class LinearProbe:
    """Logistic regression on standardised features, trained by AdamW.

    Args:
        updates: Number of updates; a batch each, drawn without repeats until all were seen.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        batch_size: Samples an update.
        seed: Of the initial weights, the order of samples and dropout.

    Attributes:
        classes_: The labels, sorted.
        n_features_in_: Number of features.
        mean_: Mean of each feature in the training data.
        scale_: Standard deviation of each; features that do not vary keep 1.
        network_: The trained network.
        loss_: Training loss of the last update.
    """

    def __init__(
        self,
        *,
        updates: int = 300,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.updates, self.batch_size, self.seed = updates, batch_size, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {k: v for k, v in vars(self).items() if not k.endswith("_")}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments.

        Raises:
            ConfigError: for an unknown name.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ConfigError(
                    f"{type(self).__name__} has no parameter {name!r}; it has "
                    f"{', '.join(self.get_params())}."
                )
            setattr(self, name, value)
        return self

    def fit(self, X: Floats, y: Array) -> Self:
        """Learn from flat maps, (samples, features), and their labels, (samples,).

        Raises:
            ConfigError: if the shapes do not fit.
        """
        X, y = np.asarray(X, np.float32), np.asarray(y)
        if X.ndim != 2 or len(X) != len(y) or not len(X):
            raise ConfigError(f"A probe needs (samples, features) and labels, not {X.shape}.")
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.n_features_in_ = X.shape[1]
        self._learn_scale(X)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)  # layers and dropout draw from the global stream
            self.network_ = self._network(X.shape[1], len(self.classes_))
            self._train(self._scaled(X), torch.from_numpy(targets).long(), generator)
        return self

    @torch.no_grad()
    def predict_proba(self, X: Floats) -> npt.NDArray[np.float32]:
        """Return the probability of each class, (samples, classes)."""
        chances: npt.NDArray[np.float32] = self._logits(X).softmax(-1).numpy()
        return chances

    def predict(self, X: Floats) -> Array:
        """Return the most probable label of each sample, (samples,)."""
        best = self._logits(X).argmax(-1).numpy()
        found: Array = self.classes_[best]
        return found

    def score(self, X: Floats, y: Array) -> float:
        """Return the accuracy on given data."""
        return float((self.predict(X) == np.asarray(y)).mean())

    def _network(self, features: int, classes: int) -> nn.Module:
        return nn.Linear(features, classes)

    @torch.no_grad()
    def _logits(self, X: Floats) -> Tensor:
        if not hasattr(self, "network_"):
            raise ConfigError(f"{type(self).__name__} has not learned anything yet: call fit.")
        X = np.asarray(X, np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ConfigError(f"This probe reads {self.n_features_in_} features, not {X.shape}.")
        logits: Tensor = self.network_(self._scaled(X))
        return logits

    def _learn_scale(self, X: Floats) -> None:
        self.mean_ = X.mean(0)
        spread = X.std(0)
        # rounding noise of a constant feature must not be blown up into a signal
        floor = 1e-6 * max(float(np.abs(X).max()), 1e-30)
        self.scale_ = np.where(spread > floor, spread, 1).astype(np.float32)

    def _scaled(self, X: Floats) -> Tensor:
        return torch.from_numpy(((X - self.mean_) / self.scale_).astype(np.float32))

    def _train(self, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        optimiser = torch.optim.AdamW(
            self.network_.parameters(),
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )
        self.network_.train()
        for batch in islice(self._batches(len(x), generator), self.updates):
            loss = nn.functional.cross_entropy(self.network_(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            self.loss_ = float(loss.detach())
        self.network_.eval()

    def _batches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(count, generator=generator)
            yield from torch.split(order, self.batch_size)


class MLPProbe(LinearProbe):
    """The paper's classifier: dropout, a hidden layer with tanh, a linear layer.

    The authors give Dropout(0.1), Linear(d_in, d_h), Tanh, Linear(d_h, classes) with
    d_h = max(d_in // 8, 2048) for maps of 64x64. Small models' maps have fewer cells, so here
    d_h = max(d_in // 8, min(d_in // 2, 2048), 16): the same 2048 for 4096 features, in proportion
    below. Their optimiser, learning rate and length of training are not known; ours are arguments.

    Args:
        hidden: Hidden width; None follows the number of features as above.
        dropout: On the input.
        **training: As for `LinearProbe`.

    Source: Liu et al., arXiv:2403.03431, section 3, and the authors' answer in issue 356 of
    their repository.
    """

    def __init__(
        self,
        *,
        hidden: int | None = None,
        dropout: float = 0.1,
        updates: int = 300,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(
            updates=updates,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            seed=seed,
        )
        self.hidden, self.dropout = hidden, dropout

    def _network(self, features: int, classes: int) -> nn.Module:
        hidden = hidden_width(features) if self.hidden is None else self.hidden
        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(features, hidden),
            nn.Tanh(),
            nn.Linear(hidden, classes),
        )


def hidden_width(features: int) -> int:
    """Return the hidden width of the paper's classifier, in proportion for small maps."""
    return max(features // 8, min(features // 2, 2048), 16)


def normalised(X: Floats) -> npt.NDArray[np.float32]:
    """Divide each map by its sum: what remains is where a token looks, not how strongly."""
    X = np.asarray(X, np.float32)
    total = X.sum(1, keepdims=True)
    return (X / np.where(total == 0, 1, total)).astype(np.float32)


def seed_folds(
    seeds: Array, folds: int, *, shuffle: int = 0
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Split samples into training and test so that no seed is in both; each is tested once.

    Args:
        seeds: The seed of each sample.
        folds: Number of splits, at least 2.
        shuffle: Seed of the order in which seeds are dealt out.

    Yields:
        Indices of the training samples and of the test samples.

    Raises:
        ConfigError: if there are fewer seeds than folds.
    """
    names = np.unique(seeds)
    check_folds(folds, len(names))
    dealt = np.random.default_rng(shuffle).permutation(names)
    for part in np.array_split(dealt, folds):
        tested = np.isin(seeds, part)
        yield np.flatnonzero(~tested), np.flatnonzero(tested)


def check_folds(folds: int, seeds: int) -> None:
    """Check that so many seeds can be split into so many folds.

    Raises:
        ConfigError: saying how many folds there may be.
    """
    if not 2 <= folds <= seeds:
        raise ConfigError(
            f"{seeds} seeds cannot be split into {folds} folds: use 2 to {seeds} folds."
        )


def held_out(
    probe: Probe, X: Floats, y: Array, seeds: Array, folds: int = 5
) -> npt.NDArray[np.float64]:
    """Train on some seeds and test on the others, in turn.

    Args:
        probe: Any classifier with `fit` and `predict`; it is fitted anew for each fold.
        X: Flat maps, (samples, features).
        y: Labels.
        seeds: The seed of each sample.
        folds: Number of splits.

    Returns:
        For each sample 1 where it was predicted right while held out, else 0.
    """
    right = np.zeros(len(y))
    for train, test in seed_folds(seeds, folds):
        probe.fit(X[train], y[train])
        right[test] = probe.predict(X[test]) == y[test]
    return right


def shuffled_labels(y: Array, seeds: Sequence[int] | Array, seed: int = 0) -> Array:
    """Return labels that say nothing: those of each seed in random order."""
    rng, out = np.random.default_rng(seed), np.array(y)
    for name in np.unique(seeds):
        where = np.flatnonzero(np.asarray(seeds) == name)
        out[where] = rng.permutation(out[where])
    return out
