import json

import numpy as np
import pytest

from freeprompt.errors import ConfigError
from freeprompt.world import ANIMALS, COLORS, OBJECTS, STYLES, SUBJECTS, Scene, random_scene
from freeprompt.world.sprites import design_like, designs


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, split="any") for _ in range(count)]


def test_equal_scenes_render_to_equal_bytes() -> None:
    for scene in scenes(30):
        again = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
        assert again == scene
        first, second = scene.render(64), again.render(64)
        assert first.image.tobytes() == second.image.tobytes()
        assert (first.mask == second.mask).all()


@pytest.mark.parametrize("size", [64, 100, 128])
def test_shapes_and_types(size: int) -> None:
    rendered = Scene(subject="car", color="red").render(size)
    assert rendered.image.shape == (size, size, 3) and rendered.image.dtype == np.uint8
    assert rendered.mask.shape == (size, size) and rendered.mask.dtype == bool
    assert rendered.caption == "a red car"


def test_a_change_of_color_changes_the_subject_alone() -> None:
    for scene in scenes(80):
        if scene.subject not in OBJECTS:
            continue
        for color in ("green", None):
            before, after = scene.render(64), scene.edited(color=color).render(64)
            assert (before.mask == after.mask).all()
            assert (before.image[~before.mask] == after.image[~before.mask]).all()


def test_a_change_of_subject_leaves_the_background() -> None:
    for scene in scenes(40, seed=1):
        before, after = scene.render(64), scene.edited(subject="elephant").render(64)
        outside = ~(before.mask | after.mask)
        assert (before.image[outside] == after.image[outside]).all()


def test_a_change_of_place_leaves_mask_and_layout() -> None:
    scene = Scene(subject="dog", place="in the park", seed=3)
    before, after = scene.render(), scene.edited(place="in the snow").render()
    assert (before.mask == after.mask).all()
    assert (before.image[~before.mask] != after.image[~before.mask]).any()


def test_an_edit_can_be_undone() -> None:
    for scene in scenes(60, seed=2):
        for style in (*STYLES, None):
            assert scene.edited(style=style).edited(style=scene.style) == scene


def test_a_new_subject_keeps_the_emoji_set_and_drops_an_impossible_color() -> None:
    car = Scene(subject="car", color="red", design=3)
    dog = car.edited(subject="dog")
    assert dog.color is None and designs()["dog"][dog.design].set == "noto"
    assert car.edited(subject="bus").color == "red"
    with pytest.raises(ConfigError, match="animals keep their own colours"):
        car.edited(subject="dog", color="blue")
    with pytest.raises(ConfigError, match="Unknown scene attribute 'colour'"):
        car.edited(colour="blue")


def test_the_mask_is_the_subject() -> None:
    for scene in scenes(60, seed=3):
        rendered = scene.render(64)
        rows, columns = np.nonzero(rendered.mask)
        width, height = (np.ptp(columns) + 1) / 64, (np.ptp(rows) + 1) / 64
        coarse = 2 / 24 if scene.style == "a pixel art of" else 3 / 64
        assert max(width, height) == pytest.approx(scene.scale, abs=coarse)
        assert (columns.min() + columns.max() + 1) / 128 == pytest.approx(scene.x, abs=coarse)
        assert (rows.max() + 1) / 64 == pytest.approx(scene.y + scene.scale / 2, abs=coarse)


def test_flip_mirrors_the_subject() -> None:
    scene = Scene(subject="elephant")
    left, right = scene.render().mask, scene.edited(flip=True).render().mask
    left, right = left[:, left.any(0)], right[:, right.any(0)]
    assert (left == right[:, ::-1]).all() and (left != right).any()


def test_every_subject_has_two_designs_and_a_photo_and_a_drawing() -> None:
    assert set(designs()) == set(SUBJECTS)
    for subject, sprites in designs().items():
        assert len(sprites) >= 2
        assert len({sprite.set for sprite in sprites}) == len(sprites)
        for design in sprites:
            assert sprites[design_like(design.set, subject, "a photo of")].set == "3d"
            assert sprites[design_like(design.set, subject, "a drawing of")].set != "3d"


def test_every_design_renders_visibly() -> None:
    for subject in SUBJECTS:
        for design in range(len(designs()[subject])):
            rendered = Scene(subject=subject, design=design, scale=0.7).render(64)
            assert 0.03 < rendered.mask.mean() < 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subject": "unicorn"}, "Unknown subject 'unicorn'"),
        ({"subject": "car", "color": "rde"}, r"Unknown color 'rde' \(did you mean 'red'\?\)"),
        ({"subject": "car", "place": "in a park"}, "did you mean 'in the park'"),
        ({"subject": "car", "style": "photo"}, "Unknown style 'photo'.*a photo of"),
        ({"subject": "dog", "color": "red"}, "animals keep their own colours"),
        ({"subject": "dog", "design": 9}, r"no design 9: it has 0 \.\. 3"),
        ({"subject": "dog", "x": 1.5}, "x is 1.5"),
        ({"subject": "dog", "scale": 0.0}, "scale is 0.0"),
        ({"subject": "dog", "seed": -1}, "seed is -1"),
        ({"subject": "dog", "size": 3}, "Unknown scene attribute 'size'"),
        ({}, "needs a subject"),
    ],
)
def test_errors_say_what_is_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scene.from_dict(values)


def test_a_size_out_of_range_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"16 \.\. 2048"):
        Scene(subject="dog").render(4)


def test_the_lists_are_the_papers() -> None:
    assert len(COLORS) == 28 and next(iter(COLORS)) == "red"
    assert ANIMALS[:10] == (
        *("dog", "giraffe", "horse", "lion", "rabbit"),
        *("sheep", "cat", "monkey", "leopard", "tiger"),
    )
    assert OBJECTS[0] == "car"
