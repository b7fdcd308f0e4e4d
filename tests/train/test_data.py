"""Streams are functions of (seed, index); seeds do not overlap."""

from pathlib import Path

import numpy as np
import pytest
import torch

from freeprompt.errors import ConfigError
from freeprompt.train import cache as cache_module
from freeprompt.train.anatomy import load_vae
from freeprompt.train.cache import LatentCache, build_cache
from freeprompt.train.config import Preset
from freeprompt.train.data import (
    Seeds,
    batches,
    rendered_batch,
    scene_at,
    step_generator,
    to_bytes,
    to_signed,
)
from freeprompt.world import is_held_out


def test_the_same_numbers_give_the_same_scene() -> None:
    assert scene_at(5, 3) == scene_at(5, 3)
    assert scene_at(5, 3) != scene_at(5, 4)
    assert scene_at(5, 3) != scene_at(6, 3)


def test_training_never_draws_a_held_out_combination() -> None:
    assert not any(is_held_out(scene_at(Seeds.MODEL, i)) for i in range(50))
    assert all(is_held_out(scene_at(Seeds.CHECK_VAE, i, "held-out")) for i in range(5))


def test_a_batch_starts_where_the_one_before_ended() -> None:
    both = rendered_batch(7, 0, batch=4, resolution=32)
    second = rendered_batch(7, 1, batch=2, resolution=32)
    assert torch.equal(both[2:], second)


def test_batches_can_start_anywhere() -> None:
    assert list(batches(lambda step: step, 3, 6, workers=0)) == [3, 4, 5]
    assert list(batches(lambda step: step, 6, 6, workers=0)) == []


def test_noise_depends_on_the_step_alone() -> None:
    draws = [torch.randn(3, generator=step_generator(1, step)) for step in (4, 5, 4)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_seed_ranges_do_not_overlap() -> None:
    starts = sorted(Seeds)
    assert min(np.diff(starts)) >= 100_000
    assert starts[0] >= 1_000_000


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_bytes(to_signed(images)), images)


def test_a_cache_grows_by_what_is_missing(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    vae = load_vae(runs / "vae" / "vae")
    build_cache(vae, tiny.vae.resolution, tmp_path, 32)
    first = np.load(tmp_path / "latents.npy")
    build_cache(vae, tiny.vae.resolution, tmp_path, 33)
    second = np.load(tmp_path / "latents.npy")
    assert first.shape == (32, 4, 8, 8)
    assert len(second) == 64
    assert np.array_equal(second[:32], first)


def test_a_cache_that_is_stopped_goes_on(tiny: Preset, runs: Path, tmp_path: Path) -> None:
    vae, size = load_vae(runs / "vae" / "vae"), tiny.vae.resolution
    assert build_cache(vae, size, tmp_path / "whole", 96)
    asked = iter([False, True])
    assert not build_cache(vae, size, tmp_path / "parts", 96, stop=lambda: next(asked))
    assert len(np.load(tmp_path / "parts" / "latents.npy")) == 64
    assert build_cache(vae, size, tmp_path / "parts", 96, stop=lambda: True)
    whole, parts = (np.load(tmp_path / name / "latents.npy") for name in ("whole", "parts"))
    assert np.array_equal(whole, parts)


def test_a_cache_draws_no_scenes_but_those_of_the_batch(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        cache_module, "scene_at", lambda seed, i: drawn.append(i) or scene_at(seed, i)
    )
    LatentCache(runs / "model" / "cache").batch(seed=1, step=2, batch=5)
    assert len(drawn) == 5


def test_batches_from_a_cache(runs: Path, tmp_path: Path) -> None:
    cache = LatentCache(runs / "model" / "cache")
    latents, prompts = cache.batch(seed=1, step=2, batch=5)
    again, same = cache.batch(seed=1, step=2, batch=5)
    assert latents.shape == (5, 4, 8, 8)
    assert torch.equal(latents, again)
    assert prompts == same
    with pytest.raises(ConfigError, match="build the cache first"):
        LatentCache(tmp_path)
