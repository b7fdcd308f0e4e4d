"""Collecting maps for probes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.api.samples import small_sd

from freeprompt.analysis import collect as module
from freeprompt.analysis.collect import Recipe, claim, collect, evenly, pooled
from freeprompt.analysis.probing import (
    VARIANTS,
    Reading,
    chance,
    names,
    probing,
    recognised,
    table,
)
from freeprompt.analysis.tasks import TASKS, probe_task
from freeprompt.core import TARGET, MapStore, Sites, Window, denoise
from freeprompt.errors import ConfigError
from freeprompt.models import adapt

RECIPE = Recipe(
    task="animal",
    maps=("cross", "self"),
    tokens=("animal", "a", "padding"),
    seeds=3,
    steps=2,
    at=(0, 1),
    pool=4,
)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model():
    return adapt(small_sd(), "small")


@pytest.fixture(scope="module")
def collection(model, tmp_path_factory):
    with torch.no_grad():
        return collect(model, RECIPE, tmp_path_factory.mktemp("maps"))


def test_maps_are_those_of_the_generation(model, collection):
    """Against all maps of a plain generation, taken apart here."""
    task, seed, label = probe_task("animal"), 1, 7
    prompts = [task.prompt(i, seed) for i in range(10)]
    store = MapStore(sites=Sites("cross:2+self:2"), window=Window(1, 2))
    done = denoise(
        model,
        model.schedule(2),
        {"target": module.start_noise(model, seed).expand(10, -1, -1, -1)},
        text={"target": model.encode_text(prompts)},
        null=model.encode_text([""]),
        rows=TARGET.with_targets(10),
        controls=[store],
    )
    assert torch.allclose(done.state["target"], collection.latents(seed), atol=1e-5)
    cross, self_ = (next(s for s in model.sites if s.name == n) for n in _names(collection, 2))
    sample = seed * 10 + label
    row = TARGET.with_targets(10).targets("cond")[label]
    spelling = model.spell("a monkey standing in the park")
    whole = store.maps[cross.name][row, 0]
    for token, columns in {
        "animal": spelling.tokens_of("monkey"),
        "a": (1,),
        "padding": tuple(range(spelling.end + 1, 77)),
    }.items():
        found = collection.maps(cross.name, 1, token)[sample]
        assert np.allclose(found, whole[:, list(columns)].sum(-1), atol=1e-6), token
    found = collection.maps(self_.name, 1, "map")[sample]
    assert np.allclose(
        found, pooled(store.maps[self_.name][row], self_.grid(8, 8), 4)[0], atol=1e-6
    )


def _names(collection, layer):
    return [collection.sites[kind][layer - 1] for kind in ("cross", "self")]


def test_forced_maps_come_from_one_call_on_another_class(model, collection):
    images = collection.forced_images
    assert not np.any(images == collection.labels)
    for seed in range(3):
        assert sorted(images[collection.seeds == seed]) == list(range(10))
    site = _names(collection, 1)[0]
    forced = collection.maps(site, 1, "animal", "forced")
    assert forced.shape == collection.maps(site, 1, "animal").shape
    assert not np.allclose(forced, collection.maps(site, 1, "animal"))


def test_looking_changes_nothing(model):
    plain = replace(RECIPE, at=(0,), maps=("cross",))
    bare = module._generate(model, plain, ["a dog", "a cat"], 4, [])
    tokens = [{"animal": (2,)}] * 2
    seen = module._generate(
        model, RECIPE, ["a dog", "a cat"], 4, list(module._snapshots(RECIPE, tokens).values())
    )
    assert torch.equal(bare, seen)


def test_going_on_gives_the_same(model, collection, tmp_path, monkeypatch):
    calls = []
    one_seed = module._one_seed

    def stopping(model, recipe, seed):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(seed)
        return one_seed(model, recipe, seed)

    monkeypatch.setattr(module, "_one_seed", stopping)
    with pytest.raises(KeyboardInterrupt):
        collect(model, RECIPE, tmp_path)
    assert calls == [0, 1]
    monkeypatch.undo()
    made = []
    monkeypatch.setattr(module, "_one_seed", lambda *a: made.append(a[2]) or one_seed(*a))
    again = collect(model, RECIPE, tmp_path)
    assert made == [2]
    for name in sorted(p.name for p in tmp_path.iterdir()):
        assert (tmp_path / name).read_bytes() == (collection.folder / name).read_bytes(), name
    site = _names(collection, 1)[0]
    assert np.array_equal(again.maps(site, 0, "a"), collection.maps(site, 0, "a"))


def test_more_seeds_go_on_and_other_settings_are_refused(model, collection, tmp_path):
    with pytest.raises(ConfigError, match=r"guidance 7\.5, now 3"):
        collect(model, replace(RECIPE, guidance=3.0), collection.folder)
    before = json.loads((collection.folder / "collection.json").read_text())
    claim(tmp_path / "c.json", before)
    claim(tmp_path / "c.json", {**before, "seeds": 9}, ignoring=("seeds",))
    with pytest.raises(ConfigError, match="steps 2, now 7"):
        claim(tmp_path / "c.json", {**before, "steps": 7}, ignoring=("seeds",))


def test_pooling_keeps_rows_that_sum_to_one():
    maps = torch.rand(2, 64, 64).softmax(-1)
    small = pooled(maps, (8, 8), 4).reshape(2, 16, 16)
    assert torch.allclose(small.sum(-1), torch.ones(2, 16), atol=1e-5)
    # by hand: the query cell of the upper left 2x2 queries, the key cell of the lower right keys
    queries, keys = [0, 1, 8, 9], [54, 55, 62, 63]
    expected = maps[:, queries][..., keys].sum(-1).mean(-1)
    assert torch.allclose(small[:, 0, 15], expected, atol=1e-6)
    assert torch.equal(pooled(maps, (8, 8), 8), pooled(maps, (8, 8), 99))


def test_a_recipe_that_cannot_be():
    for changes, message in {
        ("at", (2,)): "run from 0 to 1",
        ("seeds", 1): "at least 2",
        ("maps", ("both",)): "cross, self or both",
        ("task", "shape"): "probe task 'shape'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            replace(RECIPE, **dict([changes]))


def test_tasks_have_ten_classes_and_one_article():
    for task in TASKS.values():
        assert len(set(task.classes)) == 10
        prompts = [task.prompt(i, 3) for i in range(10)]
        assert {prompt.split()[0] for prompt in prompts} == {"a"}
        frames = zip(prompts, task.classes, strict=True)
        assert len({prompt.replace(name, "_", 1) for prompt, name in frames}) == 1
        scenes = [task.scene(i, 3) for i in range(10)]
        assert len({(s.x, s.y, s.scale, s.flip, s.seed) for s in scenes}) == 1


def test_unknown_words_are_named(model):
    task = probe_task("colour")
    spelling = model.spell(task.prompt(0, 0))
    assert task.tokens(spelling, "end", 0) == (spelling.end,)
    assert task.tokens(spelling, "start", 0) == (0,)
    with pytest.raises(ConfigError, match="Available: a, car, red"):
        task.tokens(spelling, "bus", 0)


def test_evenly():
    assert evenly(50, 5) == (0, 12, 24, 37, 49)
    assert evenly(3, 9) == (0, 1, 2)


def test_the_study(collection, tmp_path):
    """All variants at one layer; the network is random, so only the bookkeeping is checked."""
    readings = probing(collection, layers=[1, 3], folds=3, probe_settings={"updates": 2})
    cross = 3 * 2 * 2 * len(VARIANTS)
    own = 2 * 2 * (len(VARIANTS) - 1)
    assert len(readings) == cross + own
    assert names(readings) == [
        ("cross", "animal"),
        ("cross", "a"),
        ("cross", "padding"),
        ("self", "map"),
    ]
    assert [Reading.from_dict(r.to_dict()) for r in readings] == readings
    rows = table(readings, "self", "map")
    assert rows[0] == [
        "layer",
        "site",
        "step",
        "cells",
        "raw",
        "linear",
        "shuffled",
        "forced prompt",
        "forced image",
    ]
    assert len(rows) == 5
    assert chance(10, "forced image") == pytest.approx(1 / 9)
    with pytest.raises(ConfigError, match="no cross layer 99"):
        probing(collection, layers=[99])


def test_pictures_are_read_class_by_class(model, collection):
    """A judge that names the class of every other picture."""
    names = [collection.task.classes[i] for i in range(10)]

    class Half:
        def read(self, pictures):
            assert len(pictures) == 10
            return [
                SimpleNamespace(subject=name if i % 2 else "car", color=None)
                for i, name in enumerate(names)
            ]

    shown = recognised(collection, model, Half())
    assert (shown.value, shown.count, shown.seeds) == (0.5, 30, 3)
