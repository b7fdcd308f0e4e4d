"""Inversions and methods by name: what goes together, and what is refused with its reason."""

import pytest
from tests.api.samples import SOURCE, TARGET, photo, same, told, watched

import freeprompt as fp
from freeprompt.api.checks import resolve
from freeprompt.api.pairs import check_pair
from freeprompt.errors import ConfigError, FreepromptError
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS

QUICK = {"null-text": {"inner_steps": 1}, "ledits": {"sites": "cross:scale.2,!mid"}}


def refused(editor, match, error=ConfigError, **arguments):
    """The edit raises before the denoiser has run."""
    given = {"steps": 3, "image": photo()} | arguments
    with watched(editor.pipe) as seen, pytest.raises(error, match=match) as caught:
        editor.edit(TARGET, **given)
    assert seen.samples == 0, "this could have been known before any work"
    assert "\n" not in str(caught.value)


TWO_BRANCH = ("fpe", "fpe-protect", "p2p", "pnp", "masactrl")
DETERMINISTIC = ("ddim", "regularised", "negative-prompt", "null-text")


def make_sense(method, inversion):
    """The table of docs/inversions/README.md, said again."""
    cls = METHODS[method]
    if not cls.inverts:
        return False
    if method in ("edit-friendly", "ledits"):
        return inversion == "edit-friendly"
    if method in TWO_BRANCH:
        return True
    if method in ("diffedit", "pix2pix-zero"):
        return inversion in DETERMINISTIC
    raise AssertionError(f"{method} has no place in the table")


@pytest.mark.parametrize("inversion", list(INVERSIONS))
@pytest.mark.parametrize("method", list(METHODS))
def test_every_pair_is_allowed_or_refused_with_a_reason(method, inversion):
    sense = make_sense(method, inversion)
    pair = resolve(method, inversion, {})
    if sense:
        check_pair(*pair, photo(), True, SOURCE, 7.5, "")
    else:
        with pytest.raises(ConfigError, match=f"{method}.*{inversion}|{inversion}.*{method}"):
            check_pair(*pair, photo(), True, SOURCE, 7.5, "")


@pytest.mark.parametrize("inversion", list(INVERSIONS))
@pytest.mark.parametrize("method", ["fpe", "p2p", "diffedit", "edit-friendly", "ledits"])
def test_what_goes_together_works_on_a_real_image(editor, method, inversion):
    if not make_sense(method, inversion):
        return
    settings = QUICK.get(inversion, {}) | QUICK.get(method, {})
    settings |= {"skip": 0} if inversion == "edit-friendly" else {}  # no window ends before it
    first, second = (
        editor.edit(
            TARGET,
            image=photo(),
            source=SOURCE,
            method=method,
            inversion=inversion,
            steps=3,
            **settings,
        )
        for _ in range(2)
    )
    assert same(first.images[0], second.images[0])
    assert not same(first.images[0], photo())
    assert first.provenance.inversion == inversion


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("'edit-friendly' inversion|edit-friendly.*'ddim' inversion finds none",
         {"method": "edit-friendly", "inversion": "ddim"}),
        ("finds noises to add.*diffedit does not denoise with that.*fpe",
         {"method": "diffedit", "inversion": "edit-friendly", "source": SOURCE}),
        ("sdedit needs no inversion", {"method": "sdedit", "inversion": "ddim"}),
        ("a generated source needs no inversion, so 'null-text' would not be used",
         {"image": None, "source": SOURCE, "inversion": "null-text"}),
        ("null-text inversion works with the source prompt", {"inversion": "null-text"}),
        ("negative-prompt inversion works with the source", {"inversion": "negative-prompt"}),
        ("guidance 1 does not use",
         {"inversion": "null-text", "source": SOURCE, "guidance": 1}),
        ("guidance 0.5 does not use",
         {"inversion": "negative-prompt", "source": SOURCE, "guidance": 0.5}),
        ("in the place of the negative prompt 'blurry'",
         {"inversion": "negative-prompt", "source": SOURCE, "negative": "blurry"}),
        ("Leave replay at true", {"inversion": "edit-friendly", "replay": False}),
        ("guidance alone.*above 1; got 1", {"method": "ledits", "guidance": 1, **QUICK["ledits"]}),
        ("Set source_guidance=0",
         {"method": "ledits", "source": SOURCE, "source_guidance": 2, **QUICK["ledits"]}),
        ("Unknown parameter 'iterations'", {"method": "edit-friendly", "iterations": 2}),
        ("skip of EditFriendlyInversion", {"method": "edit-friendly", "skip": 1.5}),
    ],
)  # fmt: skip
def test_refusals(editor, match, arguments):
    refused(editor, match, **arguments)


def test_a_bad_target_of_ledits_is_refused_before_the_inversion(editor):
    with watched(editor.pipe) as seen, pytest.raises(ConfigError, match="names concepts"):
        editor.edit("a car; -", image=photo(), method="ledits", steps=3, **QUICK["ledits"])
    assert seen.samples == 0


# ------------------------------------------------------------------------ inversions used again


@pytest.fixture(scope="module")
def tuned(editor):
    return editor.invert(
        photo(), source=SOURCE, inversion="null-text", steps=2, guidance=5, inner_steps=1
    )


def again(editor, image, match, **arguments):
    with pytest.raises(ConfigError, match=match):
        editor.edit(TARGET, image=image, steps=2, **arguments)


def test_null_text_holds_for_its_guidance_and_negative_prompt_only(editor, tuned):
    again(editor, tuned, "for guidance=5.*but the edit has guidance=7.5", source=SOURCE)
    again(editor, tuned, "for negative=''.*negative='blurry'", guidance=5, negative="blurry")
    result = editor.edit(TARGET, image=tuned, steps=2, guidance=5)
    assert result.provenance.inversion == "null-text" and result.inverted is tuned
    assert result.provenance.sample_forwards < 2 * 4


def test_a_ddim_inversion_serves_every_guidance(editor):
    image = editor.invert(photo(), steps=2, guidance=3)
    for guidance in (5, 7.5):
        editor.edit(TARGET, image=image, steps=2, guidance=guidance, seed=4)


def test_noises_belong_to_their_seed_and_to_methods_that_use_them(editor):
    image = editor.invert(photo(), method="edit-friendly", steps=2, seed=3)
    assert image.trajectory.noises is not None
    again(editor, image, "for seed=3.*seed=0", method="edit-friendly")
    again(editor, image, "diffedit does not denoise with that", method="diffedit", seed=3)
    edits = [
        editor.edit(TARGET, image=image, steps=2, seed=3, method=method)
        for method in ("edit-friendly", "fpe")
    ]
    assert [e.provenance.inversion for e in edits] == ["edit-friendly"] * 2
    plain = editor.invert(photo(), steps=2)
    again(editor, plain, "edit-friendly edits with noises.*'ddim'", method="edit-friendly")


def test_another_inversion_than_the_images_own_is_refused(editor, tuned):
    again(editor, tuned, "asks for DDIMInversion", guidance=5, inversion="ddim", source=SOURCE)


# --------------------------------------------------------------------------------------- results


def test_a_generated_source_is_inverted_for_methods_that_need_it(editor):
    plain = editor.edit(TARGET, source=SOURCE, steps=3, seed=2).source
    seeds = [
        editor.edit(TARGET, source=SOURCE, steps=3, method="edit-friendly", seed=2, skip=0.4)
        for _ in range(2)
    ]
    first = seeds[0]
    assert same(first.images[0], seeds[1].images[0])
    assert (
        same(first.source, plain)
        or max(abs(a - b) for a, b in zip(first.source.tobytes(), plain.tobytes(), strict=True))
        <= 1
    )
    assert first.provenance.inversion == "edit-friendly"
    assert first.provenance.inversion_parameters["skip"] == 0.4
    assert first.provenance.source == SOURCE and first.reconstruction_psnr is None


def test_ledits_comes_with_its_own_settings_of_the_inversion(editor):
    own = editor.edit(TARGET, image=photo(), steps=3, method="ledits", **QUICK["ledits"]).provenance
    assert own.inversion_parameters["skip"] == 0.15 and own.inversion_parameters["last_noise"]
    assert own.inversion_parameters["source_guidance"] == 0
    given = editor.edit(
        TARGET,
        image=photo(),
        steps=3,
        method="ledits",
        inversion="edit-friendly",
        skip=0.4,
        **QUICK["ledits"],
    ).provenance
    assert given.inversion_parameters["skip"] == 0.4 and given.inversion_parameters["last_noise"]


def test_null_text_is_measured_at_its_guidance(editor, tuned):
    with watched(editor.pipe) as seen:
        image = editor.invert(
            photo(), source=SOURCE, inversion="null-text", steps=2, guidance=5, inner_steps=1
        )
        spent = seen.samples
        assert image.psnr > 0
    assert seen.samples - spent == image.reconstruction_cost == 2 * 2


def test_skipping_everything_is_said(editor):
    with told() as messages:
        result = editor.edit(TARGET, image=photo(), steps=3, method="edit-friendly", skip=1)
    assert any("nothing was edited" in m for m in messages)
    assert same(result.images[0], result.inverted.restore_size(result.inverted.round_trip))


def test_an_empty_window_on_noises_is_no_plain_generation(editor):
    with told() as messages:
        editor.edit(TARGET, image=photo(), inversion="edit-friendly", steps=3, share=0)
    assert any("held by the inversion's noises alone" in m for m in messages)


def test_recorded_maps_go_with_edit_friendly_noises(editor):
    """The tape has the steps that are run, and the same edit again needs no more."""
    given = {"method": "fpe", "record": "inversion", "steps": 3}
    first = editor.edit(TARGET, image=photo(), inversion="edit-friendly", **given)
    again = editor.edit(TARGET, image=first.inverted, **given)
    beside = editor.edit(TARGET, image=photo(), inversion="edit-friendly", steps=3)
    assert same(first.images[0], again.images[0])
    difference = max(
        abs(a - b)
        for a, b in zip(first.images[0].tobytes(), beside.images[0].tobytes(), strict=True)
    )
    assert difference <= 1  # the source's latents are those of the inversion: nothing approximated


def test_errors_are_freeprompts_own():
    assert issubclass(ConfigError, FreepromptError) and fp.methods.FPE().replay


@pytest.mark.parametrize("method", ["fpe", "diffedit", "pix2pix-zero"])
def test_proximal_guidance_reaches_every_method_that_takes_null_embeddings(editor, method):
    plain, proximal = (
        editor.edit(
            TARGET,
            image=photo(),
            source=SOURCE,
            method=method,
            inversion="negative-prompt",
            proximal=quantile,
            steps=2,
        )
        for quantile in (0, 0.9)
    )
    assert not same(plain.images[0], proximal.images[0])
