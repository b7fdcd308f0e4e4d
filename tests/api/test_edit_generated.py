"""Edits of generated images: what comes back, and what decides it."""

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
    same,
    small_sd,
    start_noise,
    told,
    watched,
)

import freeprompt as fp
from freeprompt.errors import ControlNeverFired, FreepromptWarning


@pytest.fixture(scope="module")
def result(editor):
    return editor.edit(TARGET, source=SOURCE, steps=5, seed=7)


def plain(editor, prompt, **settings):
    """The prompt generated without any control, through the same door."""
    with told():
        return editor.edit(prompt, source=SOURCE, **{"steps": 5, "seed": 7, "share": 0, **settings})


def test_an_edit_brings_pictures_and_where_they_come_from(result) -> None:
    (image,) = result.images
    assert image.mode == "RGB" and image.size == (SIDE, SIDE) == result.source.size
    assert result.targets == (TARGET,) and result.inverted is None
    assert result.reconstruction_psnr is None
    p = result.provenance
    assert (p.model, p.device, p.dtype, len(p.model_fingerprint)) == ("small", "cpu", "float32", 16)
    assert (p.source, p.targets, p.negative, p.image, p.inversion) == (
        SOURCE,
        (TARGET,),
        "",
        None,
        None,
    )
    assert (p.method, p.steps, p.guidance, p.seed, p.size) == ("fpe", 5, 7.5, 7, (SIDE, SIDE))
    assert p.parameters["share"] == 0.8 and p.parameters["sites"] == "self:below-top"
    assert p.edited_sites == ("down.1.0.self", "mid.0.self", "up.0.0.self", "up.0.1.self")
    assert (p.edited_steps, p.edited_pairs) == (4, 4 * SHARED)
    assert p.notes == () and p.flagged == (False,)
    assert set(p.versions) == {"python", "freeprompt", "torch", "diffusers", "transformers"}
    assert p.seconds > 0 and p.peak_memory_bytes > 2**20


def test_the_target_is_neither_the_source_nor_a_plain_generation(editor, result) -> None:
    assert not same(result.images[0], result.source)
    assert not same(result.images[0], plain(editor, TARGET).images[0])


def test_the_source_is_what_the_model_draws_without_freeprompt(editor, result) -> None:
    stock = editor.pipe(SOURCE, num_inference_steps=5, latents=start_noise()).images[0]
    assert distance(result.source, stock) <= 1


def test_share_zero_is_plain_generation(editor) -> None:
    stock = editor.pipe(TARGET, num_inference_steps=5, latents=start_noise()).images[0]
    assert distance(plain(editor, TARGET).images[0], stock) <= 1


def test_the_source_does_not_know_of_the_edit(editor, result) -> None:
    assert same(result.source, plain(editor, OTHER).source)


def test_several_targets_are_the_single_edits(editor, result) -> None:
    both = editor.edit([TARGET, OTHER], source=SOURCE, steps=5, seed=7)
    alone = editor.edit(OTHER, source=SOURCE, steps=5, seed=7)
    assert distance(both.images[0], result.images[0]) <= 1
    assert distance(both.images[1], alone.images[0]) <= 1
    assert not same(*both.images) and same(both.source, result.source)


def test_source_as_target_gives_the_source(editor) -> None:
    with pytest.warns(FreepromptWarning, match="is the source prompt: nothing to edit"):
        result = editor.edit([SOURCE, TARGET], source=SOURCE, steps=3)
    assert same(result.images[0], result.source)
    assert "nothing to edit" in result.provenance.notes[0]


@pytest.mark.parametrize("empty", [{"share": 0}, {"sites": "none"}, {"share": 0.3}])
def test_an_empty_window_or_selection_is_said(editor, empty) -> None:
    with pytest.warns(FreepromptWarning, match="is empty"):
        result = editor.edit(TARGET, source=SOURCE, steps=3, **empty)
    p = result.provenance
    assert p.edited_pairs == p.edited_steps == 0 and p.edited_sites == ()
    assert "is empty" in p.notes[0]


def test_a_half_that_has_no_rows_is_not_called_edited(editor) -> None:
    """Guidance 1 has no unconditional rows, so sharing on those alone would edit nothing."""
    with pytest.raises(ControlNeverFired, match="uncond"):
        editor.edit(TARGET, source=SOURCE, steps=3, guidance=1, half="uncond", share=1)


def test_warnings_point_at_the_caller(editor) -> None:
    with pytest.warns(FreepromptWarning) as caught:
        editor.edit(SOURCE, source=SOURCE, steps=1, share=1)
    assert caught[0].filename == __file__


# ------------------------------------------------------------------------------------ the seed


def test_same_seed_same_bytes(editor, result, tmp_path) -> None:
    again = editor.edit(TARGET, source=SOURCE, steps=5, seed=7)
    assert same(again.images[0], result.images[0]) and same(again.source, result.source)
    again.save(tmp_path / "a.png")
    result.save(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_seed_another_picture(editor, result) -> None:
    other = editor.edit(TARGET, source=SOURCE, steps=5, seed=8)
    assert not same(other.source, result.source) and not same(other.images[0], result.images[0])


def test_the_default_seed_is_zero(editor) -> None:
    default = editor.edit(TARGET, source=SOURCE, steps=2)
    assert default.provenance.seed == 0
    assert same(default.source, editor.edit(TARGET, source=SOURCE, steps=2, seed=0).source)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_seeds_at_the_ends(editor, seed) -> None:
    assert editor.edit(TARGET, source=SOURCE, steps=1, share=1, seed=seed).provenance.seed == seed


def test_numbers_of_numpy_are_numbers(editor) -> None:
    """`for seed in np.arange(4)` is what people write."""
    result = editor.edit(
        TARGET,
        source=SOURCE,
        steps=np.int64(5),
        seed=np.int64(7),
        guidance=np.float32(7.5),
        width=np.int64(SIDE),
        share=np.float64(0.8),
    )
    assert same(result.images[0], editor.edit(TARGET, source=SOURCE, steps=5, seed=7).images[0])
    assert type(result.provenance.seed) is type(result.provenance.steps) is int


def test_a_generator_or_noise_in_place_of_the_seed(editor, result) -> None:
    generator = torch.Generator().manual_seed(7)
    drawn = editor.edit(TARGET, source=SOURCE, steps=5, generator=generator)
    given = editor.edit(TARGET, source=SOURCE, steps=5, latents=start_noise(7))
    for other in (drawn, given):
        assert same(other.images[0], result.images[0]) and same(other.source, result.source)
        assert other.provenance.seed is None


def test_a_generator_moves_on(editor) -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = (
        editor.edit(TARGET, source=SOURCE, steps=1, share=1, generator=generator) for _ in range(2)
    )
    assert not same(first.source, second.source)


def test_given_noise_is_not_changed(editor) -> None:
    noise = start_noise(7)
    editor.edit(TARGET, source=SOURCE, steps=2, latents=noise)
    assert torch.equal(noise, start_noise(7))


# ------------------------------------------------------------------------- size, steps, guidance


@pytest.mark.parametrize("size", [(24, 16), (18, 22)])
def test_width_and_height(editor, size) -> None:
    width, height = size
    with watched(editor.pipe) as seen:
        result = editor.edit(TARGET, source=SOURCE, steps=2, share=1, width=width, height=height)
    assert result.images[0].size == result.source.size == result.provenance.size == size
    assert set(seen.sizes) == {(height // 2, width // 2)}
    assert result.provenance.edited_pairs == 2 * SHARED


def test_width_alone_keeps_the_native_height(editor) -> None:
    assert editor.edit(TARGET, source=SOURCE, steps=1, share=1, width=24).images[0].size == (24, 16)


def test_noise_of_another_size(editor) -> None:
    noise = start_noise(7, height=8, width=12)
    result = editor.edit(TARGET, source=SOURCE, steps=2, latents=noise, width=24)
    assert result.images[0].size == (24, 16)


@pytest.mark.parametrize("guidance", [0, 0.5, 1])
def test_guidance_at_most_one_edits(editor, guidance) -> None:
    with watched(editor.pipe) as seen:
        edited = editor.edit(TARGET, source=SOURCE, steps=4, guidance=guidance, seed=7)
    assert seen.batches == [2] * 4, "there is nothing to contrast with, so no unconditional rows"
    assert edited.provenance.edited_pairs == 3 * SHARED
    assert not same(edited.images[0], plain(editor, TARGET, steps=4, guidance=guidance).images[0])


def test_guidance_changes_the_picture(editor, result) -> None:
    other = editor.edit(TARGET, source=SOURCE, steps=5, seed=7, guidance=2)
    assert not same(other.images[0], result.images[0])
    assert not same(other.source, result.source)


def test_the_negative_prompt_counts(editor, result) -> None:
    other = editor.edit(TARGET, source=SOURCE, steps=5, seed=7, negative="a green horse")
    assert other.provenance.negative == "a green horse"
    assert not same(other.images[0], result.images[0])


@pytest.mark.parametrize("steps", [1, 7])
def test_so_many_steps(editor, steps) -> None:
    with watched(editor.pipe) as seen:
        result = editor.edit(TARGET, source=SOURCE, steps=steps, share=1)
    assert len(set(seen.timesteps)) == len(seen.timesteps) == steps == result.provenance.steps
    assert seen.timesteps == sorted(seen.timesteps, reverse=True)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_both_kinds_of_prediction(prediction) -> None:
    pipe = small_sd(prediction)
    result = fp.Editor(pipe).edit(TARGET, source=SOURCE, steps=4, seed=7)
    stock = pipe(SOURCE, num_inference_steps=4, latents=start_noise()).images[0]
    assert distance(result.source, stock) <= 1 and not same(result.images[0], result.source)


# ----------------------------------------------------------------------------- method, callback


def test_a_method_by_instance_with_one_parameter_more(editor) -> None:
    method = fp.methods.FPE(share=0.4, sites="self:all")
    result = editor.edit(TARGET, source=SOURCE, steps=5, method=method, half="both")
    assert result.provenance.parameters == {**method.to_dict(), "half": "both"}
    assert result.provenance.edited_pairs == 2 * 7
    assert method == fp.methods.FPE(share=0.4, sites="self:all"), "the instance is the user's"
    named = editor.edit(
        TARGET, source=SOURCE, steps=5, method="fpe", share=0.4, sites="self:all", half="both"
    )
    assert same(named.images[0], result.images[0])


def test_parameters_may_be_text(editor) -> None:
    result = editor.edit(TARGET, source=SOURCE, steps=5, share="0.4", replay="no")
    assert result.provenance.parameters["share"] == 0.4
    assert result.provenance.parameters["replay"] is False


def test_the_callback_hears_of_every_step(editor) -> None:
    heard = []
    editor.edit([TARGET, OTHER], source=SOURCE, steps=3, callback=heard.append)
    assert [(p.phase, p.step, p.steps) for p in heard] == [("edit", i, 3) for i in range(3)]
    assert {name: len(x) for name, x in heard[-1].state.items()} == {"source": 1, "target": 2}


# ------------------------------------------------------------------------------- long prompts

LONG = "a red dog " + "in the park " * 40 + "zebra"


@pytest.mark.parametrize("which", ["target", "source", "negative"])
def test_what_a_long_prompt_loses_is_quoted(editor, which) -> None:
    prompts = {"target": TARGET, "source": SOURCE, "negative": "", which: LONG}
    with told() as messages:
        result = editor.edit(
            prompts["target"], source=prompts["source"], negative=prompts["negative"], steps=2
        )
    (message,) = [m for m in messages if "Dropped" in m]
    assert "zebra" in message and "reads 77" in message and "a red dog in" not in message
    assert not same(result.images[0], result.source)


def test_a_cut_prompt_is_kept_whole_in_the_provenance_with_a_note(editor) -> None:
    with told():
        result = editor.edit(LONG, source=SOURCE, steps=2)
    assert result.targets == (LONG,)
    assert any("Dropped" in note for note in result.provenance.notes)


def test_any_text_is_a_prompt(editor) -> None:
    with told() as messages:
        result = editor.edit("猫 🐈 \x00 <|endoftext|> ñ", source="  ", steps=2)
    assert len(result.images) == 1 and messages == []
