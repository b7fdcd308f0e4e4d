"""When memory runs out: less at a time, the same pictures, and a word about it."""

import warnings

import numpy as np
import pytest
import torch
from tests.api.samples import SOURCE, TARGET, small_sd

import freeprompt as fp
from freeprompt import Memory
from freeprompt.api import fitting
from freeprompt.api.provenance import Provenance
from freeprompt.errors import ConfigError, FreepromptWarning, OutOfMemory
from freeprompt.methods import METHODS
from freeprompt.models import restored
from freeprompt.models.offload import offload, offloading
from freeprompt.models.tiny import tiny_sd

TARGETS = [TARGET, "a green cat in the park", "a white rabbit in the park", "a red horse"]
HOW = {"source": SOURCE, "steps": 2}
CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB."


@pytest.fixture
def editor():
    return fp.Editor(small_sd(), name="small")


def limit(monkeypatch, model, rows, fits=lambda: True):
    """Let passes of more rows than that run out of memory; return the sizes that were tried."""
    plain, tried = model.predict, []

    def predict(x, timestep, text):
        tried.append(len(x))
        if len(x) > rows or not fits():
            raise torch.OutOfMemoryError(CUDA)
        return plain(x, timestep, text)

    monkeypatch.setattr(model, "predict", predict)
    return tried


def apart(one, other):
    """The largest difference of two sets of pictures, in 1/255."""
    pairs = zip(one.images, other.images, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


SETTINGS = {
    "masactrl": {"start": 1},
    "imagic": {"embedding_steps": 1, "model_steps": 1},
    "pnp": {"feature_share": 0.5},
}
OFTEN = {"fpe", "p2p", "infedit", "diffedit"}  # one of each kind of skeleton; the others are slow
INDEPENDENT = [
    name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)
    for name in METHODS
    if name != "instruct-pix2pix"  # needs a model of its own
]


@pytest.mark.parametrize("method", INDEPENDENT)
def test_every_method_makes_the_same_of_targets_one_at_a_time(method):
    editor = fp.Editor(tiny_sd(sample_size=8), name="tiny")
    how = {"method": method, "source": SOURCE, "steps": METHODS[method].own_steps or 3}
    how |= SETTINGS.get(method, {})
    together = editor.edit(TARGETS[:2], **how)
    editor.model.memory = Memory(at_once=1)
    single = editor.edit(TARGETS[:2], **how)
    assert apart(single, together) <= 1
    assert single.generated.tobytes() == together.generated.tobytes()
    assert single.provenance.edited_pairs == together.provenance.edited_pairs
    assert single.provenance.memory == {"at_once": 1}
    assert single.provenance.notes == together.provenance.notes  # it was asked for: no notice


def test_fewer_targets_when_memory_runs_out(monkeypatch, editor):
    whole = editor.edit(TARGETS, **HOW)
    tried = limit(monkeypatch, editor.model, rows=6)
    with pytest.warns(FreepromptWarning, match="denoised 2 at a time"):
        split = editor.edit(TARGETS, **HOW)
    assert tried == [10, 6, 6, 6, 6]  # source and four targets; then twice two of them, two steps
    assert apart(split, whole) <= 1
    (note,) = split.provenance.notes
    assert CUDA in note and "--at-once 2" in note
    assert restored(editor.pipe.unet)


def test_a_real_image_too(monkeypatch, editor):
    picture = editor.edit(TARGET, **HOW).images[0]
    whole = editor.edit(TARGETS, image=picture, steps=2)
    limit(monkeypatch, editor.model, rows=3)
    with pytest.warns(FreepromptWarning) as told:
        split = editor.edit(TARGETS, image=picture, steps=2)
    assert apart(split, whole) <= 1
    assert [str(w.message) for w in told] == list(split.provenance.notes)  # 2 at a time, then 1
    assert len(told) == 2


class TestStepsBeyond:
    """After one target come bounded attention and offloading; a stub names an accelerator."""

    @pytest.fixture
    def accelerated(self, monkeypatch):
        monkeypatch.setattr(fitting, "ACCELERATORS", ("cpu",))

    def test_parts_then_layers_wait_and_all_is_put_back(self, monkeypatch, editor, accelerated):
        whole = editor.edit(TARGET, **HOW)
        limit(monkeypatch, editor.model, 99, fits=lambda: offloading(editor.pipe) == "sequential")
        with pytest.warns(FreepromptWarning) as told:
            result = editor.edit(TARGET, **HOW)
        assert result.images[0].tobytes() == whole.images[0].tobytes()
        flags = [str(w.message) for w in told]
        assert "--offload model" in flags[0] and "--offload sequential" in flags[1]
        assert list(result.provenance.notes) == flags
        assert offloading(editor.pipe) == "none" and restored(editor.pipe.unet)

    def test_what_the_user_switched_on_is_switched_on_again(self, monkeypatch, accelerated):
        editor = fp.Editor(small_sd(), name="small")
        offload(editor.pipe, "model", torch.device("cpu"))
        limit(monkeypatch, editor.model, 99, fits=lambda: offloading(editor.pipe) == "sequential")
        with pytest.warns(FreepromptWarning, match="--offload sequential"):
            editor.edit(TARGET, **HOW)
        assert offloading(editor.pipe) == "model"

    def test_attention_is_bounded_where_there_is_no_kernel(self, monkeypatch, editor):
        monkeypatch.setattr(fitting, "fused", lambda *args, **kwargs: False)
        limit(monkeypatch, editor.model, 99, fits=lambda: editor.model.memory.attention_mib == 256)
        with pytest.warns(FreepromptWarning, match="--attention-mib 256"):
            editor.edit(TARGET, **HOW)
        assert editor.model.memory == Memory()

    def test_decoding_steps_down_too(self, monkeypatch, editor, accelerated):
        plain = editor.model.decode

        def decode(x):
            if offloading(editor.pipe) == "none":
                raise torch.OutOfMemoryError(CUDA)
            return plain(x)

        monkeypatch.setattr(editor.model, "decode", decode)
        with pytest.warns(FreepromptWarning, match="--offload model"):
            editor.edit(TARGET, **HOW)

    def test_nothing_left_to_try(self, monkeypatch, editor):
        limit(monkeypatch, editor.model, rows=1)
        with (
            pytest.warns(FreepromptWarning),
            pytest.raises(OutOfMemory, match=r"'small' does not fit.*20\.00 MiB.*--vae-tiling"),
        ):
            editor.edit(TARGETS, **HOW)
        assert restored(editor.pipe.unet)

    def test_not_if_told_so(self, monkeypatch, editor):
        editor.model.memory = Memory(step_down=False)
        tried = limit(monkeypatch, editor.model, rows=6)
        with pytest.raises(OutOfMemory, match="step_down=True"):
            editor.edit(TARGETS, **HOW)
        assert tried == [10]

    def test_other_errors_pass(self, monkeypatch, editor):
        def broken(*args):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        monkeypatch.setattr(editor.model, "predict", broken)
        with pytest.raises(RuntimeError, match="mat1"):
            editor.edit(TARGETS, **HOW)


class TestPlanned:
    """How many targets go side by side is estimated from what is free."""

    def free_for(self, monkeypatch, editor, rows):
        row = fitting.pass_bytes(editor.pipe.unet, 1, 8, 8, torch.float32)
        monkeypatch.setattr(fitting, "free_bytes", lambda device: int(rows * row / 0.8) + 1)

    def test_as_many_as_fit(self, monkeypatch, editor):
        whole = editor.edit(TARGETS, **HOW)
        self.free_for(monkeypatch, editor, rows=8)  # the source's two, and three targets'
        tried = limit(monkeypatch, editor.model, rows=99)
        with pytest.warns(FreepromptWarning, match="denoised 3 at a time.*--at-once 3"):
            split = editor.edit(TARGETS, **HOW)
        assert tried == [8, 8, 4, 4]
        assert apart(split, whole) <= 1

    def test_one_at_the_least(self, monkeypatch, editor):
        self.free_for(monkeypatch, editor, rows=0)
        with pytest.warns(FreepromptWarning, match="denoised 1 at a time"):
            editor.edit(TARGETS[:2], **HOW)

    @pytest.mark.parametrize("free", [None, 2**40])
    def test_all_where_there_is_room_or_nothing_known(self, monkeypatch, editor, free):
        monkeypatch.setattr(fitting, "free_bytes", lambda device: free)
        tried = limit(monkeypatch, editor.model, rows=99)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not editor.edit(TARGETS, **HOW).provenance.notes
        assert tried == [10, 10]


def test_the_choice_is_in_the_picture(tmp_path):
    editor = fp.load("tiny-sd", device="cpu", memory=Memory(at_once=1, channels_last=True))
    editor.edit("a red cat", source="a red dog", steps=2).save(tmp_path / "cat.png")
    carried = Provenance.from_png(tmp_path / "cat.png")
    assert carried.memory == {"at_once": 1, "channels_last": True}


def test_a_pipeline_of_ones_own_stays_as_it_is():
    with pytest.raises(ConfigError, match=r"vae_tiling=True.*this one is yours"):
        fp.Editor(small_sd(), memory=Memory(vae_tiling=True))
    assert fp.Editor(small_sd(), memory=Memory(at_once=2)).model.memory.at_once == 2


def test_the_pipeline_of_diffusers_keeps_its_switches():
    pipe = fp.FreePromptEditingPipeline.from_pipe(small_sd())
    run = {"source_prompt": SOURCE, "num_inference_steps": 2}

    def made():
        return pipe(TARGET, **run, generator=torch.Generator().manual_seed(0)).images[0].tobytes()

    plain = made()
    pipe.enable_model_cpu_offload(device="cpu")
    assert made() == plain and offloading(pipe) == "model"
    pipe.remove_all_hooks()
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    assert made() == plain and pipe.vae.use_tiling  # a picture of one tile
