"""Edits side by side: each as if it were alone, whatever becomes of the others."""

import threading

import pytest
import torch
from tests.api.samples import counted_passes, leave_room_for, small_sd

import freeprompt as fp
from freeprompt.core import PAIR, SOURCE, MapStore, Share, Sites, Window
from freeprompt.errors import AlreadyAttached, ControlNeverFired
from freeprompt.methods import METHODS
from freeprompt.models import adapt, restored
from freeprompt.models.side_by_side import side_by_side
from freeprompt.models.tiny import tiny_sdxl
from freeprompt.models.unet import UNetModel

ALWAYS = Window(0, 10)
OPTIONS = {"steps": 3, "guidance": 4.0}
SMALL = {"pnp": {"feature": "feature:up.1.0"}}
METHODS_THAT_SHARE = [name for name, m in METHODS.items() if not (m.trains or m.instructs)]


@pytest.fixture(scope="module")
def editor():
    return fp.Editor(small_sd(), name="small")


@pytest.fixture
def passes(monkeypatch):
    """Number of rows of every evaluation."""
    return counted_passes(monkeypatch)


def edit(method, seed=0, target="a red cat", **more):
    return lambda own: own.edit(
        target, source="a red dog", method=method, seed=seed, **{**OPTIONS, **more}
    )


def far(one, other) -> float:
    """Largest difference of two pictures, of 255."""
    a, b = (torch.tensor(list(result.images[0].tobytes())) for result in (one, other))
    return float((a - b).abs().max())


@pytest.mark.filterwarnings("ignore::freeprompt.errors.FreepromptWarning")
@pytest.mark.parametrize("method", METHODS_THAT_SHARE)
def test_every_method_makes_beside_fpe_what_it_makes_alone(editor, method) -> None:
    edits = [edit("fpe", 1), edit(method, 2, **SMALL.get(method, {}))]
    alone = [one(editor) for one in edits]
    beside = fp.together(editor, edits)
    for one, other in zip(alone, beside, strict=True):
        assert far(one, other) <= 1
        assert one.provenance.sample_forwards == other.provenance.sample_forwards
    assert restored(editor.pipe.unet)


def test_equal_shapes_share_passes_and_others_do_not(editor, passes) -> None:
    edits = [edit("fpe"), edit("fpe", 1), edit("fpe", 2, width=24), edit("p2p", 3)]
    before = editor.model.sample_forwards
    fp.together(editor, edits)
    assert passes == [12, 4] * 3
    assert editor.model.sample_forwards - before == sum(passes)


def test_an_edit_may_end_before_the_others(editor, passes) -> None:
    short, long = fp.together(editor, [edit("fpe", steps=2), edit("fpe", steps=3)])
    assert passes == [8, 8, 4]
    assert (short.provenance.steps, long.provenance.steps) == (2, 3)


def test_only_so_many_at_once(editor, passes) -> None:
    fp.together(editor, [edit("fpe", i, steps=2) for i in range(5)], at_once=2)
    assert passes == [8, 8, 8, 8, 4, 4]
    with pytest.raises(fp.errors.ConfigError, match="at_once must be at least 1; got 0"):
        fp.together(editor, [edit("fpe")], at_once=0)


def test_real_images_of_different_kinds(editor) -> None:
    pictures = [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    edits = [
        lambda own, x=x: own.edit("a cat", image=x.numpy().transpose(1, 2, 0), steps=3)
        for x in pictures
    ]
    for one, other in zip([e(editor) for e in edits], fp.together(editor, edits), strict=True):
        assert far(one, other) <= 1
        assert other.inverted.psnr == pytest.approx(one.inverted.psnr, abs=0.1)  # after the end


def test_an_error_of_one_does_not_disturb_the_others(editor) -> None:
    def wrong(own):
        def stop(progress):
            raise ValueError("enough")

        return own.edit("a cat", source="a dog", callback=stop, **OPTIONS)

    good = edit("fpe")
    ended = side_by_side(editor.model, [lambda m: wrong(as_editor(editor, m))] * 2)
    assert [str(one.error) for one in ended] == ["enough"] * 2
    alone = good(editor)
    mixed = side_by_side(
        editor.model, [lambda m: wrong(as_editor(editor, m)), lambda m: good(as_editor(editor, m))]
    )
    assert far(mixed[1].get(), alone) <= 1
    with pytest.raises(ValueError, match="enough"):
        fp.together(editor, [wrong, good])
    assert restored(editor.pipe.unet)


def as_editor(editor, model):
    own = fp.Editor(editor.pipe)
    own.model = model
    return own


def test_an_interruption_unwinds_all_and_restores_the_model(editor, monkeypatch) -> None:
    unwound, before = [], threading.active_count()

    def watched(own):
        try:
            return edit("fpe")(own)
        finally:
            unwound.append(own)

    calls, evaluate = [], UNetModel.evaluate

    def interrupted(self, asked):
        calls.append(asked)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self, asked)

    monkeypatch.setattr(UNetModel, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fp.together(editor, [watched, watched, watched])
    assert len(unwound) == 3
    assert threading.active_count() == before
    assert restored(editor.pipe.unet)


def test_what_fails_together_fails_each_with_the_reason(editor, monkeypatch) -> None:
    def broken(self, asked):
        raise RuntimeError("the network broke")

    monkeypatch.setattr(UNetModel, "evaluate", broken)
    ended = side_by_side(editor.model, [lambda m: edit("fpe")(as_editor(editor, m))] * 2)
    assert [str(one.error) for one in ended] == ["the network broke"] * 2


def test_out_of_memory_together_is_done_alone(editor, monkeypatch) -> None:
    leave_room_for(4, monkeypatch)
    made = fp.together(editor, [edit("fpe", 0), edit("fpe", 1)])
    assert [one.provenance.seed for one in made] == [0, 1]


def test_the_model_is_taken_meanwhile(editor) -> None:
    def impatient(own):
        return edit("fpe")(editor)

    def training(own):
        with own.model.lend("attention"):
            pass

    for one in (impatient, training):
        with pytest.raises(AlreadyAttached):
            fp.together(editor, [one, edit("fpe")])


def test_a_lane_is_attached_to_once(editor) -> None:
    def twice(model):
        share = Share(sites=Sites("self:all"), window=ALWAYS)
        with model.attach([share], PAIR), model.attach([share], PAIR):
            pass

    (ended, _) = side_by_side(editor.model, [twice, lambda model: None])
    assert isinstance(ended.error, AlreadyAttached)


def test_silence_is_an_error_here_too(editor) -> None:
    """A control whose window is reached and that never acts raises."""

    def silent(model):
        share = Share(sites=Sites("self:all"), window=ALWAYS)
        with model.attach([share], PAIR) as run, run.at(0, (8, 8)):
            return None  # nothing is evaluated

    (ended, _) = side_by_side(editor.model, [silent, lambda model: None])
    assert isinstance(ended.error, ControlNeverFired | fp.errors.UnsupportedModel)


def test_looking_changes_nothing_for_the_others(editor) -> None:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = editor.model.encode_text(["a red dog"])
    seen = []

    @torch.no_grad()
    def looking(model):
        store = MapStore(sites=Sites("cross:all"), window=ALWAYS)
        with model.attach([store], SOURCE) as run, run.at(0, (8, 8)):
            answer = model.predict(x, 501, text)
        seen.append(store)
        return answer

    @torch.no_grad()
    def plain(model):
        return model.predict(x, 501, text)

    one, other = (ended.get() for ended in side_by_side(editor.model, [looking, plain]))
    torch.testing.assert_close(one, other)
    assert seen


def test_sdxl_shares_with_its_size_conditions(passes) -> None:
    editor = fp.Editor(tiny_sdxl(), name="tiny-xl")
    edits = [edit("fpe", i, steps=2) for i in range(2)]
    alone = [one(editor) for one in edits]
    passes.clear()
    for one, other in zip(alone, fp.together(editor, edits), strict=True):
        assert far(one, other) <= 1
    assert passes == [8, 8]


def test_gradients_are_taken_alone(passes) -> None:
    model = adapt(small_sd(), "small")
    x = torch.randn(1, 4, 8, 8)
    text = model.encode_text(["a dog"])
    text = type(text)(text.states.detach())

    def slope(own):
        with torch.enable_grad():
            start = x.clone().requires_grad_()
            own.predict(start, 501, text).sum().backward()
        return start.grad

    one, other = (ended.get() for ended in side_by_side(model, [slope, slope]))
    assert passes == [1, 1]
    assert torch.equal(one, other)
    assert one.abs().sum() > 0
