"""The user's pipeline is the user's: after an edit, whatever became of it, nothing has changed."""

import contextlib
import threading

import pytest
import torch
from tests.api.samples import (
    SOURCE,
    TARGET,
    photo,
    same,
    small_sd,
    start_noise,
    state_of,
    watched,
)

import freeprompt as fp
from freeprompt.errors import AlreadyAttached, FreepromptError
from freeprompt.models import restored


class StopError(Exception):
    pass


def stop_at(step, error, phase="edit"):
    def callback(progress):
        if (progress.phase, progress.step) == (phase, step):
            raise error

    return callback


def generated(editor, **more):
    return editor.edit(TARGET, source=SOURCE, steps=4, **more)


def real(editor, **more):
    return editor.edit(TARGET, image=photo(), steps=4, **more)


def recorded(editor, **more):
    return real(editor, record="inversion", **more)


@pytest.fixture
def pipe():
    """As a user might hold it: a part in training mode, gradients wanted, another scheduler."""
    from diffusers import EulerDiscreteScheduler

    pipe = small_sd()
    pipe.unet.mid_block.train()
    pipe.unet.conv_in.requires_grad_(True)
    pipe.unet.conv_in.register_forward_hook(lambda *_: None)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(4)
    return pipe


@pytest.mark.parametrize("edit", [generated, real, recorded])
def test_after_an_edit(pipe, edit) -> None:
    editor = fp.Editor(pipe)
    before = state_of(pipe)
    result = edit(editor)
    assert result.source.mode == "RGB"
    assert state_of(pipe) == before and editor.pipe is pipe


@pytest.mark.parametrize(
    ("edit", "phase", "error"),
    [
        (generated, "edit", StopError()),
        (generated, "edit", KeyboardInterrupt()),
        (real, "edit", KeyboardInterrupt()),
        (real, "invert", StopError()),
        (recorded, "invert", KeyboardInterrupt()),
    ],
)
def test_after_an_interruption(pipe, edit, phase, error) -> None:
    editor = fp.Editor(pipe)
    before = state_of(pipe)
    with pytest.raises(type(error)):
        edit(editor, callback=stop_at(3, error, phase))
    assert state_of(pipe) == before and restored(pipe.unet)


def test_after_a_failure_inside_the_network(pipe) -> None:
    before = state_of(pipe)

    def fail(module, args):
        if len(args[0]) == 4:
            raise StopError

    handle = pipe.unet.mid_block.resnets[0].register_forward_pre_hook(fail)
    with pytest.raises(StopError):
        generated(fp.Editor(pipe))
    handle.remove()
    assert state_of(pipe) == before and restored(pipe.unet)


def test_an_interrupted_edit_leaves_no_trace_in_the_next(editor) -> None:
    clean = generated(editor)
    with contextlib.suppress(StopError):
        generated(editor, callback=stop_at(3, StopError()))
    again = generated(editor)
    assert same(again.images[0], clean.images[0])
    assert again.provenance.sample_forwards == clean.provenance.sample_forwards == 16


def test_the_pipeline_draws_as_before(editor) -> None:
    def draw():
        return editor.pipe(SOURCE, num_inference_steps=3, latents=start_noise()).images[0]

    before = draw()
    generated(editor)
    assert same(draw(), before)


def test_gradients_are_not_switched_off_and_not_computed(editor) -> None:
    results = []
    with torch.enable_grad():
        results.append(generated(editor, callback=lambda p: results.append(p.state["target"])))
        assert torch.is_grad_enabled()
    assert not any(x.requires_grad for x in results[:-1])


def test_the_callback_s_own_exception_arrives(editor) -> None:
    error = StopError("mine")
    with pytest.raises(StopError) as caught:
        generated(editor, callback=stop_at(1, error))
    assert caught.value is error


# ------------------------------------------------------------------------------ several at a time


def in_thread(work):
    """Run in a second thread; return its result or raise its error."""
    out = {}

    def target():
        try:
            out["result"] = work()
        except BaseException as error:
            out["error"] = error

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(60)
    if "error" in out:
        raise out["error"]
    return out["result"]


def test_a_second_thread_edits_while_this_one_holds_another_model(editor) -> None:
    other = fp.Editor(small_sd())
    alone, mine = generated(other), generated(editor)
    inside = []

    def callback(progress):
        if progress.step == 2:
            inside.append(in_thread(lambda: generated(other)))

    held = generated(editor, callback=callback)
    assert same(inside[0].images[0], alone.images[0]) and same(held.images[0], mine.images[0])
    assert inside[0].provenance.edited_pairs == 12 == held.provenance.edited_pairs


@pytest.mark.parametrize(
    ("run", "second"),
    [
        (in_thread, generated),
        (in_thread, lambda e: e.invert(photo(), steps=2)),
        (lambda work: work(), real),
    ],
    ids=["thread", "thread-invert", "nested"],
)
def test_a_second_edit_of_the_same_model_is_refused(editor, run, second) -> None:
    clean, refusals = generated(editor), []

    def callback(progress):
        if progress.step == 2:
            with pytest.raises(AlreadyAttached, match="already attached to 'small'") as caught:
                run(lambda: second(editor))
            refusals.append(caught.value)

    with watched(editor.pipe) as seen:
        held = generated(editor, callback=callback)
    assert len(refusals) == 1 and seen.samples == 16 == held.provenance.sample_forwards
    assert same(held.images[0], clean.images[0])


def test_two_editors_of_one_pipe_know_of_each_other(editor) -> None:
    def callback(progress):
        fp.Editor(editor.pipe).edit(TARGET, source=SOURCE, steps=1, share=1)

    with pytest.raises(AlreadyAttached):
        generated(editor, callback=callback)
    assert restored(editor.pipe.unet)


def test_a_refused_edit_can_be_repeated(editor) -> None:
    with pytest.raises(FreepromptError):
        generated(editor, sites="self:40-50")
    assert generated(editor).provenance.edited_pairs == 12


# -------------------------------------------------------------------------------- a user's pipe


def test_the_name_of_an_editor() -> None:
    pipe = small_sd()
    assert fp.Editor(pipe).model.name == "StableDiffusionPipeline"
    assert fp.Editor(pipe, name="mine").model.name == "mine"
    assert fp.load("tiny-sd", device="cpu").model.name == "tiny-sd"


def test_the_sampler_of_the_pipe_does_not_matter(pipe, editor) -> None:
    """Edits are DDIM on the checkpoint's noise levels, whatever the user draws with."""
    assert same(generated(fp.Editor(pipe)).images[0], generated(editor).images[0])


def test_the_same_checkpoint_has_the_same_fingerprint(pipe, editor) -> None:
    def mark(p):
        return fp.Editor(p).edit(TARGET, source=SOURCE, steps=1, share=1).provenance

    first = mark(pipe).model_fingerprint
    assert first == mark(editor.pipe).model_fingerprint
    pipe.unet.conv_in.weight.data.add_(1)
    assert mark(pipe).model_fingerprint != first
