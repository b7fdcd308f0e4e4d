import subprocess
import sys

import numpy as np
import pytest

from freeprompt.errors import ConfigError
from freeprompt.world import (
    ANIMALS,
    COLORS,
    OBJECTS,
    PLACES,
    SUBJECTS,
    Scene,
    is_held_out,
    random_scene,
)


def draw(count: int, seed: int = 0, **options: str) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **options) for _ in range(count)]  # type: ignore[arg-type]


def test_a_tenth_of_the_combinations_is_held_out() -> None:
    things = [
        is_held_out(Scene(subject=subject, color=color, place=place))
        for subject in OBJECTS
        for color in COLORS
        for place in PLACES
    ]
    animals = [is_held_out(Scene(subject=a, place=p)) for a in ANIMALS for p in PLACES[1:]]
    assert 0.08 < np.mean(things) < 0.12 and 0.08 < np.mean(animals) < 0.12


def test_the_papers_probe_prompts_are_never_held_out() -> None:
    assert not any(is_held_out(Scene(subject="car", color=color)) for color in COLORS)
    assert not any(is_held_out(Scene(subject=a, place="in the park")) for a in ANIMALS)
    assert not any(is_held_out(Scene(subject=subject)) for subject in SUBJECTS)


def test_held_out_never_changes() -> None:
    assert is_held_out(Scene(subject="giraffe", place="in the desert"))
    assert not is_held_out(Scene(subject="dog", place="on the beach"))


def test_splits() -> None:
    assert not any(map(is_held_out, draw(300)))
    assert all(map(is_held_out, draw(50, split="held-out")))
    with pytest.raises(ConfigError, match="Unknown split 'test'"):
        draw(1, split="test")


def test_subjects_lie_wholly_in_the_frame() -> None:
    for scene in draw(1500, split="any"):
        half = scene.scale / 2
        assert scene.x - half > 0 and scene.x + half < 1
        assert scene.y - half > 0 and scene.y + half < 1
    for scene in draw(60, seed=1, split="any"):
        mask = scene.render(64).mask
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert not edge.any()


def test_shares() -> None:
    scenes = draw(3000, split="any")
    things = [s for s in scenes if s.subject in OBJECTS]
    assert len(things) / 3000 == pytest.approx(0.5, abs=0.03)
    assert np.mean([s.color is not None for s in things]) == pytest.approx(0.9, abs=0.02)
    assert np.mean([s.subject == "car" for s in things]) == pytest.approx(3 / 26, abs=0.02)
    assert np.mean([s.place is None for s in scenes]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([s.style is None for s in scenes]) == pytest.approx(0.6, abs=0.03)
    assert {s.subject for s in scenes} == set(SUBJECTS)


def test_importing_the_world_imports_no_torch() -> None:
    code = "import sys, freeprompt.world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
