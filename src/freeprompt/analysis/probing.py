"""The probing study: accuracy by layer and step, beside everything that could explain it away."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from freeprompt.analysis.collect import SELF, Collection
from freeprompt.analysis.probe import (
    Array,
    Floats,
    LinearProbe,
    MLPProbe,
    held_out,
    normalised,
    shuffled_labels,
)
from freeprompt.analysis.statistics import Estimate, mean, rate
from freeprompt.errors import ConfigError
from freeprompt.images import to_images
from freeprompt.judge import Judge
from freeprompt.models import UNetModel

Variant = Literal["raw", "linear", "normalised", "shuffled", "forced prompt", "forced image"]
VARIANTS: dict[Variant, str] = {
    "raw": "the paper's MLP on maps of generated pictures",
    "linear": "a linear probe on the same maps",
    "normalised": "each map divided by its sum: where the token looks, not how strongly",
    "shuffled": "labels in random order within each seed: must be chance",
    "forced prompt": "one network call on a noised rendering of another class: the prompt's class",
    "forced image": "the same maps: the class of the rendering",
}
_FORCED: tuple[Variant, ...] = ("forced prompt", "forced image")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One accuracy.

    Attributes:
        kind: `cross` or `self`.
        token: Whose cross map; `map` for self maps.
        site: Site name.
        layer: Its number, from 1.
        step: Denoising step.
        variant: One of `VARIANTS`.
        accuracy: Held-out accuracy with its interval over seeds.
        features: Number of features of a map.
        by_seed: Accuracy in each seed, for means over layers.
    """

    kind: str
    token: str
    site: str
    layer: int
    step: int
    variant: Variant
    accuracy: Estimate
    features: int
    by_seed: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {**self.__dict__, "by_seed": list(self.by_seed)}
        return {**plain, "accuracy": self.accuracy.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Reading":
        """Build from what `to_dict` gave."""
        accuracy = Estimate.from_dict(values["accuracy"])
        return cls(**{**values, "accuracy": accuracy, "by_seed": tuple(values["by_seed"])})


def chance(classes: int, variant: Variant) -> float:
    """Return the accuracy of guessing.

    A forced image never shows the prompt's class, so a probe that reads the prompt can rule one
    class out.
    """
    return 1 / (classes - 1) if variant == "forced image" else 1 / classes


def probing(
    collection: Collection,
    *,
    layers: Sequence[int] | None = None,
    variants: Sequence[Variant] = tuple(VARIANTS),
    folds: int = 5,
    probe_settings: dict[str, Any] | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> list[Reading]:
    """Probe every kind of map of a collection at every layer and kept step.

    Args:
        collection: The maps.
        layers: Numbers of the layers; None means all.
        variants: Which figures; see `VARIANTS`.
        folds: Seeds are split into so many parts, each tested once.
        probe_settings: Constructor arguments of both probes, such as `updates`.
        callback: Called with the number of figures done and of all, after each.

    Raises:
        ConfigError: for a layer that the model does not have.
    """
    plan = list(_plan(collection, layers, variants))
    readings: list[Reading] = []
    for kind, token, layer, step, variant in plan:
        site = collection.sites[kind][layer - 1]
        X, y = _data(collection, site, step, token, variant)
        probe = (LinearProbe if variant == "linear" else MLPProbe)(**(probe_settings or {}))
        right = held_out(probe, X, y, collection.seeds, folds)
        readings.append(
            Reading(
                kind=kind,
                token=token,
                site=site,
                layer=layer,
                step=step,
                variant=variant,
                accuracy=rate(right.tolist(), collection.seeds.tolist()),
                features=X.shape[1],
                by_seed=tuple(right.reshape(collection.recipe.seeds, -1).mean(1).tolist()),
            )
        )
        if callback is not None:
            callback(len(readings), len(plan))
    return readings


def checked_layers(
    layers: Sequence[int] | None, kind: str, sites: Mapping[str, Sequence[str]]
) -> Sequence[int]:
    """Return the layers of a kind that are asked for; None asks for all.

    Args:
        layers: Their numbers, from 1.
        kind: `cross` or `self`.
        sites: Names of the model's sites by kind.

    Raises:
        ConfigError: for a layer that the model does not have.
    """
    count = len(sites[kind])
    for layer in layers or ():
        if not 1 <= layer <= count:
            raise ConfigError(f"There is no {kind} layer {layer}; layers are 1 to {count}.")
    return range(1, count + 1) if layers is None else layers


def _plan(
    collection: Collection, layers: Sequence[int] | None, variants: Sequence[Variant]
) -> Iterator[tuple[str, str, int, int, Variant]]:
    for kind, token in collection.recipe.kinds():
        for layer in checked_layers(layers, kind, collection.sites):
            for step in collection.recipe.at:
                # rows of a self map sum to 1 as they are: normalising would change nothing
                wanted = [v for v in variants if not (kind == "self" and v == "normalised")]
                yield from ((kind, token, layer, step, variant) for variant in wanted)


def _data(
    collection: Collection, site: str, step: int, token: str, variant: Variant
) -> tuple[Floats, Array]:
    X = collection.maps(site, step, token, "forced" if variant in _FORCED else "generated")
    match variant:
        case "normalised":
            return normalised(X), collection.labels
        case "shuffled":
            return X, shuffled_labels(collection.labels, collection.seeds)
        case "forced image":
            return X, collection.forced_images
        case _:
            return X, collection.labels


@torch.no_grad()
def recognised(collection: Collection, model: UNetModel, judge: Judge) -> Estimate:
    """Return how often a generated picture shows its class, as the judge reads it.

    The paper trains on all generations, recognisable or not, and so do the probes here; this says
    what those are worth.
    """
    right: list[float] = []
    attribute = "subject" if collection.task.name == "animal" else "color"
    for seed in range(collection.recipe.seeds):
        latents = collection.latents(seed).to(model.device, model.dtype)
        readings = judge.read(to_images(model.decode(latents)))
        pairs = zip(readings, collection.task.classes, strict=True)
        right += [float(getattr(reading, attribute) == name) for reading, name in pairs]
    return rate(right, collection.seeds.tolist())


def average(
    readings: Sequence[Reading], kind: str, token: str, variant: Variant, steps: str = "later"
) -> Estimate:
    """Return the mean accuracy over layers (and steps), its interval over seeds.

    Args:
        readings: Accuracies.
        kind: `cross` or `self`.
        token: Whose map.
        variant: Which figure.
        steps: `first` takes the first step alone, `later` all others.
    """
    first = min((r.step for r in readings), default=0)
    found = [
        r.by_seed
        for r in readings
        if (r.kind, r.token, r.variant) == (kind, token, variant)
        and (r.step == first) == (steps == "first")
    ]
    by_seed = np.mean(found, axis=0).tolist() if found else []
    return mean(by_seed, range(len(by_seed)))


def table(readings: Sequence[Reading], kind: str, token: str) -> list[list[str]]:
    """Return the rows of a table: layer, step, features, then every variant in percent."""
    variants = [v for v in VARIANTS if any(r.variant == v and r.kind == kind for r in readings)]
    rows = [["layer", "site", "step", "cells", *variants]]
    chosen = [r for r in readings if (r.kind, r.token) == (kind, token)]
    for layer, step in dict.fromkeys((r.layer, r.step) for r in chosen):
        here = {r.variant: r for r in chosen if (r.layer, r.step) == (layer, step)}
        some = next(iter(here.values()))
        figures = [_percent(here[v].accuracy) if v in here else "" for v in variants]
        rows.append([str(layer), some.site, str(step), str(some.features), *figures])
    return rows


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.0f} [{100 * e.low:.0f}, {100 * e.high:.0f}]"


def names(readings: Sequence[Reading]) -> list[tuple[str, str]]:
    """Return the (kind, token) pairs that were probed, in order."""
    return list(dict.fromkeys((r.kind, r.token) for r in readings))


def title(kind: str, token: str) -> str:
    """Name a kind of map for headings."""
    return "self-attention maps" if token == SELF else f"{kind}-attention maps of '{token}'"


def heat_map(readings: Sequence[Reading], classes: int, path: Path) -> None:
    """Draw accuracy by layer (down) and step (across), a panel a variant, a row a kind of map.

    Raises:
        MissingDependency: without matplotlib.
    """
    from freeprompt.analysis.figures import panels

    grids = []
    for kind, token in names(readings):
        for variant in VARIANTS:
            chosen = [r for r in readings if (r.kind, r.token, r.variant) == (kind, token, variant)]
            if chosen:
                heading = f"{title(kind, token)}\n{variant} (chance {chance(classes, variant):.0%})"
                grids.append((heading, _grid(chosen)))
    panels(grids, path, across="step", down="layer", span=(0.0, 1.0))


def _grid(chosen: Sequence[Reading]) -> tuple[list[str], list[str], list[list[float]]]:
    layers = sorted({r.layer for r in chosen})
    steps = sorted({r.step for r in chosen})
    value = {(r.layer, r.step): r.accuracy.value for r in chosen}
    cells = [[value[layer, step] for step in steps] for layer in layers]
    return [str(layer) for layer in layers], [str(step) for step in steps], cells
