"""Edits of real images: what they cost, what the source is, and the inversion kept for later."""

import numpy as np
import pytest
import torch
from tests.api.samples import (
    OTHER,
    SHARED,
    SIDE,
    SOURCE,
    TARGET,
    distance,
    photo,
    same,
    small_sd,
    thin_sd,
    told,
    watched,
)

import freeprompt as fp
from freeprompt.errors import ConfigError, FreepromptError
from freeprompt.images import psnr


@pytest.fixture(scope="module")
def inverted(editor):
    return editor.invert(photo(), steps=4)


# ----------------------------------------------------------------------------------- counted work

COUNTS = [
    # image, targets, steps, settings, sample-forwards
    pytest.param(True, 1, 50, {}, 190, id="real"),
    pytest.param(True, 1, 50, {"record": "inversion"}, 150, id="real-recorded"),
    pytest.param(False, 1, 50, {}, 200, id="generated"),
    pytest.param(True, 2, 50, {}, 50 + 40 * 5 + 10 * 4, id="real-two-targets"),
    pytest.param(False, 2, 5, {}, 5 * 6, id="generated-two-targets"),
    pytest.param(True, 3, 5, {"record": "inversion"}, 5 + 5 * 6, id="recorded-three-targets"),
    pytest.param(True, 1, 5, {"guidance": 1}, 5 + 4 * 2 + 1 * 1, id="real-no-guidance"),
    pytest.param(True, 1, 5, {"share": 0.5}, 5 + 2 * 3 + 3 * 2, id="real-half-share"),
    pytest.param(True, 1, 5, {"half": "both"}, 5 + 4 * 3 + 1 * 2, id="real-both-halves"),
    pytest.param(True, 1, 5, {"iterations": 2}, 15 + 4 * 3 + 1 * 2, id="real-refined"),
    pytest.param(True, 1, 5, {"share": 0}, 5 + 5 * 2, id="real-nothing-shared"),
]


@pytest.fixture(scope="module")
def thin():
    return fp.Editor(thin_sd())


@pytest.mark.parametrize(("real", "targets", "steps", "settings", "count"), COUNTS)
def test_counted_work(thin, real, targets, steps, settings, count) -> None:
    given = {"image": photo()} if real else {"source": SOURCE}
    prompts = [TARGET, OTHER, "a white rabbit"][:targets]
    with told(), watched(thin.pipe) as seen:
        result = thin.edit(prompts, steps=steps, **given, **settings)
    assert seen.samples == count == result.provenance.sample_forwards
    assert len(result.images) == targets


def test_the_count_is_of_this_edit_alone(editor) -> None:
    for _ in range(2):
        result = editor.edit(TARGET, source=SOURCE, steps=2)
        assert result.provenance.sample_forwards == 8


# ------------------------------------------------------------------------------------- the source


def test_source_and_error_cost_extra_when_asked_for_and_once(editor) -> None:
    with watched(editor.pipe) as seen:
        result = editor.edit(TARGET, image=photo(), steps=4)
        spent = seen.samples
        assert spent == result.provenance.sample_forwards and not result.inverted.reconstructed
        first = result.source
        assert seen.samples == spent + 4
        assert np.isfinite(result.reconstruction_psnr) and same(result.source, first)
        assert seen.samples == spent + 4
    assert result.provenance.sample_forwards == spent


def test_the_source_is_the_reconstruction_and_nothing_better(editor) -> None:
    image = photo()
    result = editor.edit(TARGET, image=image, steps=4, native=True)
    trip, rebuilt = result.inverted.round_trip, result.inverted.reconstruction
    assert same(result.source, rebuilt)
    assert not same(result.source, trip) and not same(result.source, image)
    assert result.reconstruction_psnr == psnr(rebuilt, trip)
    assert distance(rebuilt, trip) > 2, "this inversion is not perfect, and must not look so"


def test_refinement_makes_a_better_inversion() -> None:
    """On a smooth network; on a rough one fixed-point iteration need not contract."""
    pipe = small_sd()
    pipe.unet.conv_out.weight.mul_(0.1)
    editor = fp.Editor(pipe)
    coarse, fine = (
        editor.edit(TARGET, image=photo(), steps=4, iterations=n).reconstruction_psnr
        for n in (0, 5)
    )
    assert fine > coarse


# ------------------------------------------------------------------------------- inputs and sizes


def test_one_image_in_many_forms(editor, tmp_path) -> None:
    image, path = photo(), tmp_path / "ünï.png"
    image.save(path)
    before = image.tobytes()
    forms = [image, path, str(path), path.read_bytes(), np.asarray(image), image.convert("RGBA")]
    kept = [editor.invert(form, steps=1) for form in forms]
    assert all(torch.equal(k.trajectory.latents, kept[0].trajectory.latents) for k in kept)
    assert kept[1].picture.sha256 == kept[3].picture.sha256
    result = editor.edit(TARGET, image=path, steps=1, share=1)
    assert result.provenance.image == str(path) and result.provenance.image_size == (20, 12)
    assert editor.edit(TARGET, image=image, steps=1, share=1).provenance.image is None
    assert image.tobytes() == before


@pytest.mark.parametrize("size", [(12, 20), (5, 5), (101, 67)])
def test_the_result_has_the_size_of_the_input(editor, size) -> None:
    result = editor.edit(TARGET, image=photo(*size), steps=1, share=1)
    assert result.images[0].size == result.source.size == size
    width, height = result.provenance.size
    assert width % 2 == height % 2 == 0 and 0.6 < width * height / SIDE**2 < 1.5
    assert abs(np.log(width / height) - np.log(size[0] / size[1])) < 0.15, "the shape is kept"


def test_native_leaves_the_size_of_the_model(editor) -> None:
    big = editor.edit(TARGET, image=photo(60, 36), steps=1, share=1)
    native = editor.edit(TARGET, image=photo(60, 36), steps=1, share=1, native=True)
    assert big.images[0].size == (60, 36) and native.provenance.native
    assert native.images[0].size == native.source.size == native.provenance.size == (20, 12)


def test_what_was_changed_on_the_way_in_is_noted(editor) -> None:
    image = photo().convert("RGBA")
    image.putalpha(128)
    result = editor.edit(TARGET, image=image, steps=1, share=1)
    assert result.provenance.notes == ("transparent pixels were composited on white",)


def test_a_prompt_may_say_what_is_there(editor) -> None:
    told_, untold = (
        editor.edit(TARGET, image=photo(), source=source, steps=3) for source in (SOURCE, None)
    )
    assert told_.provenance.source == SOURCE and untold.provenance.source is None
    assert not same(told_.images[0], untold.images[0])


def test_the_seed_of_a_real_image_changes_nothing(editor) -> None:
    a, b = (editor.edit(TARGET, image=photo(), steps=2, seed=seed) for seed in (0, 7))
    assert same(a.images[0], b.images[0])


def test_recording_is_near_but_not_the_same(editor) -> None:
    beside, taped = (
        editor.edit(TARGET, image=photo(), steps=5, record=record)
        for record in ("none", "inversion")
    )
    assert taped.provenance.edited_pairs == beside.provenance.edited_pairs == 4 * SHARED
    assert not same(beside.images[0], taped.images[0])


def test_phases_of_the_callback(editor) -> None:
    heard = []
    result = editor.edit(TARGET, image=photo(), steps=5, callback=heard.append)
    result.inverted.reconstruct(heard.append)
    expected = [(phase, i, 5) for phase in ("invert", "edit", "reconstruct") for i in range(5)]
    assert [(p.phase, p.step, p.steps) for p in heard] == expected
    assert all(set(p.state) == {"source"} for p in heard[:5])
    result.inverted.reconstruct(heard.append)
    assert len(heard) == 15, "what is known already is not computed again"


# ------------------------------------------------------------------------- an inversion used again


def test_an_inversion_is_not_done_twice(editor) -> None:
    first = editor.edit(TARGET, image=photo(), steps=5)
    with watched(editor.pipe) as seen:
        again = editor.edit(TARGET, image=first.inverted, steps=5)
        other = editor.edit(OTHER, image=first.inverted, steps=5)
    assert seen.samples == 2 * (4 * 3 + 1 * 2)
    assert again.provenance.sample_forwards == 14
    assert same(again.images[0], first.images[0]) and not same(other.images[0], first.images[0])
    assert again.images[0].size == (20, 12)
    p, q = first.provenance.recipe(), again.provenance.recipe()
    assert {k for k in p if p[k] != q[k]} == {"sample_forwards"}


def test_a_recorded_inversion_used_again(editor) -> None:
    kept = editor.invert(photo(), steps=5, record="inversion")
    with watched(editor.pipe) as seen:
        again = editor.edit(TARGET, image=kept, steps=5, record="inversion")
    assert seen.batches == [2] * 5
    first = editor.edit(TARGET, image=photo(), steps=5, record="inversion")
    assert same(again.images[0], first.images[0])
    beside = editor.edit(TARGET, image=kept, steps=5, record="none")
    assert same(beside.images[0], editor.edit(TARGET, image=photo(), steps=5).images[0])


def refused_without_work(editor, match, **arguments):
    with watched(editor.pipe) as seen, pytest.raises(FreepromptError, match=match) as caught:
        editor.edit(TARGET, **{"steps": 4, **arguments})
    assert seen.samples == 0, "this could have been known before any work"
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"steps": 5}, "inverted with 4 steps, but the edit has 5"),
        ({"source": SOURCE}, "inverted with the source prompt ''"),
        ({"record": "inversion"}, "wants to record during the inversion"),
        ({"iterations": 3}, "iterations"),
    ],
)
def test_an_inversion_that_does_not_fit(editor, inverted, arguments, match) -> None:
    error = refused_without_work(editor, match, image=inverted, **arguments)
    assert isinstance(error, ConfigError)


def test_an_inversion_of_another_model(inverted) -> None:
    other = fp.Editor(small_sd(), name="other")
    refused_without_work(other, "inverted with another model", image=inverted)


@pytest.mark.parametrize("more", [{"sites": "self:all"}, {"share": 1}])
def test_a_recording_that_lacks_something(editor, more) -> None:
    kept = editor.invert(photo(), steps=4, record="inversion", share=0.5)
    refused_without_work(editor, "tape|record", image=kept, record="inversion", **more)


def test_an_inversion_belongs_to_the_pipe_not_to_the_editor(editor, inverted) -> None:
    """A service that makes an Editor for each request keeps its inversions."""
    again = fp.Editor(editor.pipe).edit(TARGET, image=inverted, steps=4)
    assert same(again.images[0], editor.edit(TARGET, image=inverted, steps=4).images[0])


def test_settings_of_the_same_inversion_may_be_repeated(editor) -> None:
    kept = editor.invert(photo(), steps=2, iterations=1)
    result = editor.edit(TARGET, image=kept, steps=2, share=0.5, iterations=1)
    assert result.provenance.inversion_parameters == {"iterations": 1}
