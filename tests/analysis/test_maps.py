"""Maps are what softmax gives, reduced as asked; and looking changes nothing."""

import numpy as np
import pytest
import torch
from tests.analysis.by_hand_maps import explicit_maps
from tests.api.samples import photo, same, small_sd, start_noise, state_of

import freeprompt as fp
from freeprompt.analysis import AttentionMaps
from freeprompt.analysis.reduce import END, PAD, START
from freeprompt.core import PAIR, SOURCE, TARGET, Row, Sites, Window, denoise
from freeprompt.errors import BadSiteExpression, ConfigError, ControlNeverFired, SaveError

PROMPT, TARGETS = "a red dog in the park", ["a blue cat in the park", "a green car"]
EVERYTHING = (START, "a", "red", "dog", "in", "the", "park", END, PAD)
STEPS = 3
MASACTRL = {"sites": "self:all", "start": 0, "mask_sites": "cross:all"}


@pytest.fixture(scope="module")
def editor():
    return fp.Editor(small_sd(), name="small")


def attention(editor, prompt=PROMPT, **more):
    return editor.attention(prompt, **{"steps": STEPS, "seed": 7, **more})


def close(found, wanted, atol=1e-6):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize(("half", "row"), [("cond", 1), ("uncond", 0)])
@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
def test_cross_maps_are_those_computed_by_hand(editor, half, row, size):
    words = ["red", START, END, PAD] if half == "cond" else ["dog", END, PAD]
    with explicit_maps(editor.model, "cross") as found:
        maps = attention(
            editor,
            words=words,
            half=half,
            negative="a dog" if half == "uncond" else "",
            by_step=True,
            by_head=True,
            width=size[0],
            height=size[1],
        )
    tokens = {"red": [2], "dog": [2], START: [0], END: [7], PAD: range(8, 77)}
    if half == "uncond":
        tokens |= {END: [3], PAD: range(4, 77)}
    assert maps.words == tuple(words)
    assert len(maps.cross.sites) == 7
    for site, grid, array in zip(
        maps.cross.sites, maps.cross.grids, maps.cross.arrays, strict=True
    ):
        assert grid == site.grid(size[1] // 2, size[0] // 2)
        assert array.shape == (STEPS, 2, len(words), *grid)
        explicit = torch.stack([p[row] for p in found[site.name]])  # step, head, query, token
        for i, word in enumerate(words):
            wanted = explicit[..., list(tokens[word])].sum(-1).reshape(STEPS, 2, *grid)
            assert array.dtype == np.float16  # of every step and head: one part in 2000
            np.testing.assert_allclose(array[:, :, i], wanted.numpy(), rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize("each", ["by_step", "by_head"])
def test_means_are_kept_whole(editor, each):
    with explicit_maps(editor.model, "cross") as found:
        maps = attention(editor, words=["red"], **{each: True})
    axis = 1 if each == "by_step" else 0
    for site, array in zip(maps.cross.sites, maps.cross.arrays, strict=True):
        explicit = torch.stack([p[1] for p in found[site.name]])[..., 2].mean(axis, keepdim=True)
        close(array[:, :, 0].reshape(explicit.shape), explicit)


def test_self_maps_are_those_computed_by_hand(editor):
    with explicit_maps(editor.model, "self") as found:
        maps = attention(editor, sites="self:all", by_step=True, by_head=True, width=24)
    for site, array in zip(maps.own.sites, maps.own.arrays, strict=True):
        close(array, torch.stack([p[1] for p in found[site.name]]))
    assert maps.own.grids[0] == (8, 12)


def test_the_streamed_mean_is_the_mean_of_what_was_stored(editor):
    every = attention(editor, sites="cross:all+self:all", by_step=True, by_head=True)
    mean = attention(editor, sites="cross:all+self:all")
    for many, one, part in ((every.cross, mean.cross, 2**-11), (every.own, mean.own, 0)):
        assert many.steps == one.steps == tuple(range(STEPS))
        for a, b in zip(many.arrays, one.arrays, strict=True):
            assert b.shape[:2] == (1, 1)
            whole = a.mean((0, 1), keepdims=True, dtype=np.float32)
            np.testing.assert_allclose(whole, b, rtol=part, atol=1e-7)


def test_all_words_and_tokens_together_are_certain(editor):
    maps = attention(editor, words=EVERYTHING, by_step=True)
    np.testing.assert_allclose(maps.numpy().sum(3), 1, atol=1e-5)


def test_a_word_of_several_tokens_is_one_word(editor):
    """The tiny tokenizer spells `giraffe` in letters; `a` occurs twice and is summed too."""
    spelling = editor.model.spell("a giraffe and a car")
    assert len(spelling.tokens_of("giraffe")) > 1 and len(spelling.tokens_of("a")) == 2
    with explicit_maps(editor.model, "cross") as found:
        maps = attention(editor, "a giraffe and a car", words=["giraffe", "a"], by_head=True)
    for site, array in zip(maps.cross.sites, maps.cross.arrays, strict=True):
        explicit = torch.stack([p[1] for p in found[site.name]]).mean(0)
        for i, word in enumerate(maps.words):
            tokens = list(spelling.tokens_of(word))
            close(array[0, :, i].reshape(2, -1), explicit[..., tokens].sum(-1))


def test_a_word_is_averaged_over_layers_on_the_finest_grid(editor):
    maps = attention(editor, words=["red"], by_step=True, by_head=True)
    whole = maps.numpy()
    assert whole.shape == (7, STEPS, 2, 1, 8, 8)
    np.testing.assert_allclose(maps.of("RED"), whole.mean((0, 1, 2))[0], atol=1e-6)
    layers = [i for i, site in enumerate(maps.cross.sites) if site.index in (1, 4)]
    one = maps.of("red", sites="cross:1,4", step=2, head=1)
    np.testing.assert_allclose(one, whole[layers, 2, 1, 0].mean(0), atol=1e-6)
    coarse = maps.of("red", sites="cross:mid")
    assert coarse.shape == maps.cross.grids[3] and coarse.shape < (8, 8)
    assert maps.of("red", size=(32, 20)).shape == (32, 20)


def test_words_default_to_those_of_the_prompt(editor):
    assert attention(editor, "a dog, the dog in A park").words == ("A", "dog", "the", "in", "park")


def test_by_default_self_attention_is_collected_at_the_finest_small_grid(editor):
    maps = attention(editor)
    assert {site.scale for site in maps.own.sites} == {1}
    assert maps.own.grids == ((8, 8),) * 3


def test_looking_changes_no_byte_of_a_generated_picture(editor):
    watched = attention(editor, sites="cross:all+self:all", words=EVERYTHING)
    model = editor.model
    plain = denoise(
        model,
        model.schedule(STEPS),
        {"target": start_noise()},
        text={"target": model.encode_text([PROMPT])},
        null=model.encode_text([""]),
        rows=TARGET,
    )
    (image,), _ = editor._pictures(plain.state["target"])
    assert same(watched.image, image)


@pytest.mark.parametrize(
    ("method", "parameters"), [("fpe", {}), ("p2p", {}), ("masactrl", MASACTRL)]
)
@pytest.mark.parametrize("real", [False, True])
def test_looking_changes_no_byte_of_an_edit(editor, method, parameters, real):
    how = fp.methods.METHODS[method].build(parameters)
    start, native = ({"image": photo()}, {"native": True}) if real else ({}, {})
    maps = attention(editor, target=TARGETS, method=how, sites="cross:all+self:all", **start)
    plain = editor.edit(TARGETS, source=PROMPT, method=how, steps=STEPS, seed=7, **start, **native)
    for one, image in zip(maps.targets, plain.images, strict=True):
        assert same(one.image, image)
    if not real:
        assert same(maps.image, plain.source)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_denoiser_is_looked_at_uncompiled(editor, in_place):
    """torch.compile cannot trace an observer: an internal error of its own would come instead."""
    pipe = small_sd()
    if in_place:
        pipe.unet.compile(backend="eager")
    else:
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    found = attention(fp.Editor(pipe, name="compiled"), by_step=True)
    assert np.array_equal(found.numpy(), attention(editor, by_step=True).numpy())


def test_nothing_is_left_behind(editor):
    before = state_of(editor.pipe)
    attention(editor, target=TARGETS)
    with pytest.raises(ConfigError):
        attention(editor, words=["giraffe"])
    with pytest.raises(KeyboardInterrupt):
        attention(editor, callback=interrupt)
    assert state_of(editor.pipe) == before


def interrupt(progress):
    raise KeyboardInterrupt


def test_an_edit_is_watched_side_by_side(editor):
    """Each picture has its own words, and the maps of its own batch row."""
    with explicit_maps(editor.model, "cross") as found:
        maps = attention(
            editor, target=TARGETS, words=["red", "cat", "car", "a"], sites="cross:all"
        )
    assert [one.role for one in maps.pictures] == ["source", "target", "target"]
    assert [one.words for one in maps.pictures] == [("red", "a"), ("cat", "a"), ("car", "a")]
    rows = PAIR.with_targets(2).rows
    for one, row, token in zip(
        maps.pictures,
        (Row("source", True), Row("target", True, 0), Row("target", True, 1)),
        (2, 3, 3),
        strict=True,
    ):
        site, array = one.cross.sites[2], one.cross.arrays[2]
        explicit = torch.stack([p[rows.index(row)] for p in found[site.name]])
        close(array[0, 0, 0].reshape(-1), explicit[..., token].mean((0, 1)))


def test_an_edit_is_seen_as_it_is_made(editor):
    """FPE gives the target the source's self-attention maps, so they must be equal where shared."""
    maps = attention(editor, target="a blue cat", sites="self:all", share=1.0)
    for site, a, b in zip(maps.own.sites, maps.own.arrays, maps.targets[0].own.arrays, strict=True):
        assert np.array_equal(a, b) == (site.scale > 1)


def test_the_source_of_a_real_image_is_seen_while_it_is_read(editor):
    maps = attention(editor, image=photo(), target="a blue cat", share=0.5, steps=4, by_step=True)
    assert maps.cross.steps == (0, 1)
    assert maps.targets[0].cross.steps == (0, 1, 2, 3)


def test_a_source_that_nobody_reads_has_no_maps_and_says_so(editor):
    maps = attention(editor, image=photo(), target="a blue cat", record="inversion")
    assert maps.cross_maps is None and maps.targets[0].words == ("a", "blue", "cat")
    with pytest.raises(ConfigError, match="No cross-attention maps were collected"):
        maps.of("red")


def test_a_real_image_is_walked_along_its_trajectory(editor):
    inverted = editor.invert(photo(), source=PROMPT, steps=STEPS)
    with explicit_maps(editor.model, "cross") as found:
        maps = attention(editor, image=inverted, words=["dog"], sites="cross:all", by_step=True)
    model, schedule = editor.model, editor.model.schedule(STEPS)
    text, path = model.encode_text([PROMPT]), inverted.trajectory
    with explicit_maps(model, "cross") as wanted:
        for i in range(STEPS):
            level = STEPS - i
            model.predict(path.latents[level : level + 1], schedule.timesteps[i], text)
    assert maps.role == "real" and maps.image.size == inverted.size
    for name, explicit in wanted.items():
        assert all(torch.equal(a, b) for a, b in zip(explicit, found[name], strict=True))


def test_a_real_image_and_its_inversion_give_the_same(editor):
    inverted = editor.invert(photo(), source=PROMPT, steps=STEPS)
    one, two = (attention(editor, image=image) for image in (photo(), inverted))
    assert np.array_equal(one.numpy(), two.numpy())
    assert one.settings["image_sha256"] == two.settings["image_sha256"]


def test_a_window_of_steps(editor):
    every = attention(editor, by_step=True, sites="cross:all")
    some = attention(editor, by_step=True, sites="cross:all", window=(1, 3))
    assert some.cross.steps == (1, 2)
    np.testing.assert_array_equal(some.numpy(), every.numpy()[:, 1:3])


def test_the_same_call_gives_the_same_bytes(editor):
    assert np.array_equal(attention(editor).numpy(), attention(editor).numpy())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_saved_maps_come_back(editor, tmp_path, suffix):
    maps = attention(editor, target=TARGETS, by_step=True, words=["a", "cat"])
    back = AttentionMaps.load(maps.save(tmp_path / f"maps{suffix}"))
    assert len(back.targets) == 2
    for one, two in zip(maps.pictures, back.pictures, strict=True):
        assert (one.prompt, one.role, one.words) == (two.prompt, two.role, two.words)
        assert dict(one.settings) == dict(two.settings)
        assert same(one.image, two.image)
        for a, b in ((one.cross, two.cross), (one.own, two.own)):
            assert (a.sites, a.grids, a.steps, a.by_step) == (b.sites, b.grids, b.steps, b.by_step)
            assert all(np.array_equal(x, y) for x, y in zip(a.arrays, b.arrays, strict=True))


def test_what_cannot_be_saved_or_read_is_refused(editor, tmp_path):
    maps = attention(editor)
    with pytest.raises(ConfigError, match=r"\.safetensors or \.npz"):
        maps.save(tmp_path / "maps.pt")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError):
        maps.save(tmp_path / "file" / "maps.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    for name in ("bad.npz", "none.safetensors"):
        with pytest.raises(ConfigError, match="holds no saved attention maps"):
            AttentionMaps.load(tmp_path / name)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (
            {"words": ["rad"]},
            ConfigError,
            "did you mean 'red'.*Available: <end>, <pad>, <start>, a",
        ),
        ({"words": ["cat", "rad"], "target": "a cat"}, ConfigError, "'a red dog.*' or 'a cat'"),
        ({"words": "red"}, ConfigError, "must be a list"),
        ({"sites": "cross:8"}, ControlNeverFired, "cross:1-7"),
        ({"sites": "cross:2-9"}, BadSiteExpression, "asks for layer 9"),
        ({"sites": "layers"}, BadSiteExpression, "Cannot read"),
        ({"sites": "feature:all"}, ConfigError, "cross and self sites"),
        ({"sites": "none"}, ConfigError, "selects none"),
        ({"half": "both"}, ConfigError, "half must be"),
        ({"half": "uncond", "guidance": 1}, ConfigError, "no unconditional rows"),
        ({"half": "uncond", "image": photo()}, ConfigError, "no unconditional rows"),
        ({"window": (2, 2)}, ConfigError, "window must lie within the 3 steps"),
        ({"window": (0, 4)}, ConfigError, "window must lie within the 3 steps"),
        ({"steps": 0}, ConfigError, "number of steps"),
        ({"steps": 2.5}, ConfigError, "must be a whole number"),
        ({"guidance": -1}, ConfigError, "guidance"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"share": 0.5}, ConfigError, "would have no effect"),
        ({"iterations": 2, "target": "a cat"}, ConfigError, "would have no effect"),
        ({"target": "a cat", "method": "sdedit"}, ConfigError, "runs a loop of its own"),
        ({"target": " "}, ConfigError, "must say something"),
        ({"image": photo(), "width": 16}, ConfigError, "real image brings"),
    ],
)
def test_refusals(editor, asked, error, says):
    with pytest.raises(error, match=says):
        attention(editor, **asked)


def test_an_empty_prompt_says_nothing(editor):
    with pytest.raises(ConfigError, match="must say something"):
        attention(editor, "")


def test_maps_that_were_not_collected_are_named(editor):
    maps = attention(editor, words=["red"], sites="cross:1,2")
    for asked, says in (
        ({"word": "dog"}, "collected without 'dog'.*Available: red"),
        ({"word": "red", "step": 1}, "by_step=True"),
        ({"word": "red", "head": 1}, "by_head=True"),
    ):
        with pytest.raises(ConfigError, match=says):
            maps.of(**asked)
    with pytest.raises(ControlNeverFired, match="the collected maps"):
        maps.of("red", sites="cross:3")
    with pytest.raises(ConfigError, match="No self-attention maps"):
        maps.components()
    every = attention(editor, words=["red"], sites="cross:1", by_step=True, by_head=True)
    with pytest.raises(ConfigError, match="seen were 0-2"):
        every.of("red", step=3)
    with pytest.raises(ConfigError, match="numbered 0 to 1"):
        every.of("red", head=2)
    with pytest.raises(ConfigError, match="No cross-attention maps"):
        attention(editor, sites="self:mid").of("red")


def test_an_inversion_of_other_steps_is_refused(editor):
    inverted = editor.invert(photo(), source=PROMPT, steps=2)
    with pytest.raises(ConfigError, match="has 2 steps, and 3 were asked for"):
        attention(editor, image=inverted)


def test_rows_that_never_come_are_an_error(editor):
    from freeprompt.analysis import WatchCross
    from freeprompt.analysis.reduce import columns

    model = editor.model
    watch = WatchCross(
        row=Row("target", True),
        sites=Sites("cross:1"),
        window=Window(0, 1),
        words=columns(model.spell(PROMPT), ["red"]),
    )
    text = model.encode_text([PROMPT])
    denoise(
        model,
        model.schedule(1),
        {"source": start_noise()},
        text={"source": text},
        null=text,
        rows=SOURCE,
        controls=[watch],
    )
    with pytest.raises(ControlNeverFired, match="No conditional target row"):
        watch.found()
