"""What is kept of a map, how much memory that is, and what is refused for its size."""

import numpy as np
import pytest
import torch
from tests.api.samples import small_sd, start_noise

import freeprompt as fp
from freeprompt.analysis.maps import CrossMaps
from freeprompt.analysis.reduce import (
    END,
    PAD,
    START,
    Kept,
    Observed,
    WatchCross,
    WatchSelf,
    check_grids,
    columns,
    finest_allowed,
)
from freeprompt.core import TARGET, Row, Share, Site, Sites, Window, denoise
from freeprompt.core.words import Spelling
from freeprompt.errors import ConfigError

ROW = Row("target", True)
STEPS = 4


@pytest.fixture(scope="module")
def model():
    return fp.Editor(small_sd(), name="small").model


def generate(model, watches, side=8):
    text = model.encode_text(["a red dog"])
    denoise(
        model,
        model.schedule(STEPS),
        {"target": start_noise(height=side, width=side)},
        text={"target": text},
        null=model.encode_text([""]),
        rows=TARGET,
        controls=watches,
    )


def spelling(**changes):
    made = {
        "prompt": "an old, old owl",
        "pieces": ("<", "an", "old", ",", "old", "o", "wl", ">"),
        "words": ("an", "old", ",", "old", "owl"),
        "spans": ((1, 2), (2, 3), (3, 4), (4, 5), (5, 7)),
        "length": 10,
    }
    return Spelling(**{**made, **changes})


def test_columns_are_runs_of_tokens():
    found = columns(spelling(), ["owl", "OLD", START, END, PAD, "owl"])
    assert found == {
        "owl": (slice(5, 7),),
        "OLD": (slice(2, 3), slice(4, 5)),
        START: (slice(0, 1),),
        END: (slice(7, 8),),
        PAD: (slice(8, 10),),
    }


def test_a_prompt_that_fills_all_tokens_has_no_padding():
    with pytest.raises(ConfigError, match="fills all 8 tokens"):
        columns(spelling(length=8), [PAD])


def test_a_running_mean_is_a_mean_and_steps_are_kept_apart():
    maps = [torch.rand(2, 3, generator=torch.Generator().manual_seed(i)) for i in range(7)]
    mean, each = (Kept(grid=(1, 3), by_step=by_step) for by_step in (False, True))
    for kept in (mean, each):
        for step in (3, 1, 2):  # whatever the order in which they come
            kept.add(step, maps[step].clone())
    wanted = torch.stack(maps[1:4])
    np.testing.assert_allclose(mean.array(), wanted.mean(0, keepdim=True), atol=1e-7)
    np.testing.assert_array_equal(each.array(), wanted)
    assert sorted(mean.seen) == sorted(each.seen) == [1, 2, 3]


def test_memory_is_what_was_asked_for_and_no_more(model):
    """Numbers kept: cells x words (x heads x steps) at every site.

    Four bytes each, and two of every step and head together.
    """
    cells = [(s, np.prod(s.grid(8, 8))) for s in model.sites if s.kind == "cross"]
    words = columns(model.spell("a red dog"), ["red", "dog", END])
    total = int(sum(n for _, n in cells)) * 3 * 4
    given = {"row": ROW, "sites": Sites("cross:all"), "words": words, "steps": STEPS}
    mean = WatchCross(**given)
    each = WatchCross(**given, by_step=True, by_head=True)
    steps = WatchCross(**given, by_step=True)
    generate(model, [mean, each, steps])
    assert mean.nbytes == total
    assert steps.nbytes == total * STEPS
    assert each.nbytes == total * STEPS * 2 / 2


def test_handing_maps_over_holds_nothing_twice(model):
    words = columns(model.spell("a red dog"), ["red", "dog", END])
    watch = WatchCross(row=ROW, sites=Sites("cross:all"), words=words, by_step=True)
    generate(model, [watch])
    held = watch.nbytes
    maps = CrossMaps.of_cross(watch)
    assert maps.nbytes == watch.nbytes == held
    for site, array in zip(maps.sites, maps.arrays, strict=True):
        mine = [kept.data_ptr() for kept in watch.kept[site].maps.values()]
        first, size = array.__array_interface__["data"][0], array.strides[0]
        assert mine == [first + step * size for step in range(STEPS)]
    again = CrossMaps.of_cross(watch)
    assert all(np.array_equal(a, b) for a, b in zip(maps.arrays, again.arrays, strict=True))


def test_the_memory_kept_does_not_grow_with_the_steps(model):
    sizes = []

    class Weigh(WatchSelf):
        def probs(self, call, probs):
            out = super().probs(call, probs)
            sizes.append(self.nbytes)
            return out

    generate(model, [Weigh(row=ROW, sites=Sites("self:mid"))])
    assert len(sizes) == STEPS and len(set(sizes)) == 1


def test_nothing_that_is_kept_is_a_view_of_a_whole_map(model):
    """A view would hold the memory that the reduction is there to save."""
    words = columns(model.spell("a red dog"), ["red"])
    watches = [
        WatchCross(row=ROW, sites=Sites("cross:all"), words=words, by_head=True, by_step=True),
        WatchSelf(row=ROW, sites=Sites("self:all"), by_head=True, by_step=True),
    ]
    generate(model, watches)
    for watch in watches:
        for kept in watch.kept.values():
            for array in kept.maps.values():
                assert array.untyped_storage().nbytes() == array.nbytes
                assert array.dtype == watch.stored


def test_more_than_the_budget_is_refused_with_the_arithmetic_in_the_first_step(model):
    seen = []

    class Count(WatchSelf):
        def probs(self, call, probs):
            seen.append(call.step)
            return super().probs(call, probs)

    need = 64 * 64 * 4 * STEPS
    watch = Count(row=ROW, sites=Sites("self:1"), by_step=True, steps=STEPS, budget=need - 1)
    with pytest.raises(ConfigError, match=r"1 x 64 x 64 numbers of 4 bytes.*in 4 steps.*large"):
        generate(model, [watch])
    assert seen == [0]
    generate(model, [WatchSelf(**{**vars(watch), "budget": need, "kept": {}})])


def sd15_sites():
    """Self-attention of Stable Diffusion 1.5 at 512 pixels: grids of 64, 32, 16 and 8."""
    return [
        Site(kind="self", block=f"b.{i}", index=i + 1, scale=2**h, halvings=h, path="")
        for i, h in enumerate((0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0))
    ]


def test_self_maps_above_32x32_are_refused_with_the_arithmetic():
    sites, latent = sd15_sites(), (64, 64)
    with pytest.raises(ConfigError) as refused:
        check_grids(sites, latent, large=False)
    for part in ("5 of", "64x64", "4096 x 4096 x 4 bytes = 64 MiB", "320 MiB", "large=True"):
        assert part in str(refused.value)
    check_grids(sites, latent, large=True)
    check_grids([s for s in sites if s.scale > 1], latent, large=False)
    check_grids(sites, (32, 32), large=False)
    with pytest.raises(ConfigError, match="24x48"):
        check_grids(sites[:1], (24, 48), large=False)


def test_the_finest_grid_that_is_allowed():
    sites = sd15_sites()
    assert finest_allowed(sites, (64, 64)) == "self:scale.2"
    assert finest_allowed(sites, (16, 16)) == "self:scale.1"
    assert finest_allowed(sites, (96, 96)) == "self:scale.4"
    assert finest_allowed(sites[:2], (64, 64)) is None


def test_an_editor_refuses_large_self_maps_before_any_work():
    editor = fp.Editor(small_sd(), name="small")
    with pytest.raises(ConfigError, match="34x34"):
        editor.attention("a dog", sites="self:all", width=68, height=68, steps=1)
    assert editor.model.sample_forwards == 0
    maps = editor.attention("a dog", sites="self:1", width=68, height=68, steps=1, large=True)
    assert maps.own.arrays[0].shape == (1, 1, 34 * 34, 34 * 34)
    by_default = editor.attention("a dog", width=68, height=68, steps=1)
    assert set(by_default.own.grids) == {(17, 17)}


def test_an_observed_model_is_the_model_but_for_attach(model):
    watch = WatchSelf(row=ROW, sites=Sites("self:mid"))
    observed = Observed(model, [watch])
    assert observed.pipe is model.pipe and observed.sites is model.sites
    generate(observed, [])
    assert sum(watch.kept[s].seen.total() for s in watch.kept) == STEPS
    with pytest.raises(ConfigError, match="Share does not say that it only observes"):
        Observed(model, [Share(sites=Sites("self:all"), window=Window(0, 1))])
