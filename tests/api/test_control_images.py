"""Edits that run with a control image: every method, both branches, the inversion, and again."""

from copy import deepcopy

import numpy as np
import pytest
from PIL import Image
from tests.api.samples import OTHER, SOURCE, TARGET, distance, photo, same, small_sd, state_of
from tests.models.hint_nets import tiny_adapter, tiny_controlnet

import freeprompt as fp
from freeprompt.api.provenance import Provenance
from freeprompt.errors import ConfigError
from freeprompt.images import save_png
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS
from freeprompt.models.hints import as_network
from freeprompt.picture import open_image

STEPS = 3
TEXT = [name for name in METHODS if not METHODS[name].instructs]
FEW = {
    "masactrl": {"start": 1},
    "imagic": {"embedding_steps": 1, "model_steps": 1},
    "pnp": {"feature": "feature:up.1.0"},
    "ledits": {"sites": "cross:scale.2,!mid"},
}


def drawing(width=20, height=12):
    picture = Image.new("L", (width, height))
    picture.paste(255, (width // 4, height // 4, width, height))
    return picture


def controlled(**loud):
    """An editor with a ControlNet, and that ControlNet."""
    pipe = small_sd()
    editor, net = fp.Editor(pipe, name="small"), tiny_controlnet(pipe, **loud)
    editor.model.networks = (as_network(net, "edges"),)
    return editor, net


@pytest.fixture(scope="module")
def pair():
    return controlled()


@pytest.fixture(scope="module")
def editor(pair):
    return pair[0]


@pytest.fixture(scope="module")
def plain():
    return fp.Editor(small_sd(), name="small")


@pytest.mark.parametrize("method", TEXT)
def test_every_method_runs_with_one(editor, plain, method):
    steps = METHODS[method].own_steps or STEPS
    how = {"method": method, "steps": steps, "image": photo(), "source": SOURCE}
    how |= FEW.get(method, {})
    with_it = editor.edit(TARGET, control_image=drawing(), **how)
    without = plain.edit(TARGET, **how)
    off = editor.edit(TARGET, control_image=drawing(), control_weight=0, **how)
    assert not same(with_it.images[0], without.images[0])
    assert same(off.images[0], without.images[0]), "weight 0 is no control image"
    assert with_it.provenance.sample_forwards == without.provenance.sample_forwards


def test_source_and_target_share_it_in_every_pass(editor, pair):
    batches, given = [], []
    net = pair[1]
    hooks = [
        editor.pipe.unet.register_forward_hook(lambda m, a, out: batches.append(len(a[0]))),
        net.register_forward_hook(
            lambda m, a, k, out: given.append(k["controlnet_cond"]), with_kwargs=True
        ),
    ]
    result = editor.edit([TARGET, OTHER], image=photo(), steps=STEPS, control_image=drawing())
    for hook in hooks:
        hook.remove()
    assert [len(cond) for cond in given] == batches, "once a pass, the inversion's among them"
    assert all((row == cond[0]).all() for cond in given for row in cond)
    assert sum(batches) == result.provenance.sample_forwards


def test_a_generated_source_has_it_too(editor, plain):
    result = editor.edit(TARGET, source=SOURCE, steps=STEPS, control_image=drawing(16, 16))
    without = plain.edit(TARGET, source=SOURCE, steps=STEPS)
    assert not same(result.source, without.source)
    assert not same(result.images[0], without.images[0])


def test_a_silent_network_changes_nothing(plain):
    silent, _ = controlled(loud=0)
    with_it = silent.edit(TARGET, image=photo(), steps=STEPS, control_image=drawing())
    assert same(with_it.images[0], plain.edit(TARGET, image=photo(), steps=STEPS).images[0])


def test_the_window(editor):
    """A whole run is two halves; each of them alone is something else."""
    images = [
        editor.edit(TARGET, source=SOURCE, steps=4, control_image=drawing(16, 16), **window)
        for window in ({}, {"control_window": (0, 0.5)}, {"control_window": (0.5, 1)})
    ]
    assert len({result.images[0].tobytes() for result in images}) == 3


def test_several_networks_at_once(plain):
    pipe = plain.pipe
    both = fp.Editor(pipe, name="small")
    nets = (tiny_controlnet(pipe), tiny_adapter(pipe))
    both.model.networks = tuple(as_network(net) for net in nets)
    images = [drawing(16, 16), photo(16, 16)]
    result = both.edit(
        TARGET, source=SOURCE, steps=STEPS, control_image=images, control_weight=[1, 0.5],
        control_window=[(0, 1), (0, 0.7)],
    )  # fmt: skip
    first, second = result.provenance.control
    assert (first["kind"], second["kind"]) == ("controlnet", "adapter")
    assert second["weight"] == 0.5 and second["window"] == [0, 0.7]
    with pytest.raises(ConfigError, match=r"1 control images for 2 networks"):
        both.edit(TARGET, source=SOURCE, steps=STEPS, control_image=images[0])
    with pytest.raises(ConfigError, match="control_weight has 3 values for 2"):
        both.edit(TARGET, source=SOURCE, control_image=images, control_weight=[1, 1, 1])


def test_the_pipeline_is_left_as_it_was(pair):
    editor, net = pair
    before, weights = state_of(editor.pipe), deepcopy(net.state_dict())

    def stop(progress):
        raise KeyError

    for callback in (None, stop):
        try:
            editor.edit(TARGET, source=SOURCE, steps=2, control_image=drawing(16, 16),
                        callback=callback)  # fmt: skip
        except KeyError:
            assert callback is stop
    assert state_of(editor.pipe) == before
    assert editor.model.hints is None, "nothing of an edit stays with the editor"
    assert all((net.state_dict()[name] == value).all() for name, value in weights.items())
    assert not any(vars(m).get("_forward_hooks") for m in net.modules())


class TestInversions:
    @pytest.mark.parametrize("inversion", list(INVERSIONS))
    def test_all_are_made_with_it(self, editor, plain, inversion):
        settings = {"inner_steps": 1} if inversion == "null-text" else {}
        how = {"source": SOURCE, "steps": STEPS, "inversion": inversion, **settings}
        with_it = editor.invert(photo(), control_image=drawing(), **how)
        without = plain.invert(photo(), **how)
        tensors = with_it.trajectory.pack()[0], without.trajectory.pack()[0]
        assert any((tensors[0][name] != tensors[1][name]).any() for name in tensors[0])

    def test_one_serves_several_edits_with_the_same_control_image(self, editor, tmp_path):
        inverted = editor.invert(photo(), steps=STEPS, control_image=drawing())
        direct = editor.edit(TARGET, image=photo(), steps=STEPS, control_image=drawing())
        again = editor.edit(TARGET, image=inverted, steps=STEPS, control_image=drawing())
        inverted.save(tmp_path / "a.safetensors")
        stored = editor.edit(
            TARGET, image=tmp_path / "a.safetensors", steps=STEPS, control_image=drawing()
        )
        assert same(direct.images[0], again.images[0])
        assert same(direct.images[0], stored.images[0])
        assert same(stored.inverted.reconstruction, direct.inverted.reconstruction)

    @pytest.mark.parametrize("other", [{"control_weight": 0.5}, {"control_window": (0, 0.5)},
                                       {"control_image": photo(seed=3)}])  # fmt: skip
    def test_it_is_refused_with_another(self, editor, other):
        inverted = editor.invert(photo(), steps=2, control_image=drawing())
        with pytest.raises(ConfigError, match="other control images"):
            editor.edit(TARGET, image=inverted, steps=2, **{"control_image": drawing(), **other})

    def test_one_without_is_refused_with_one(self, editor, plain):
        inverted = plain.invert(photo(), steps=2)
        with pytest.raises(ConfigError, match="other control images"):
            editor.edit(TARGET, image=inverted, steps=2, control_image=drawing())


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, r"loaded with the ControlNet 'edges', and there is no control image"),
        ({"control_image": []}, "0 control images for 1 networks"),
        ({"control_image": drawing(), "control_weight": "much"}, "control_weight must be a number"),
        ({"control_image": drawing(), "control_window": (0.5, 0.5)}, "control_window must be a sh"),
        ({"control_image": drawing(), "control_window": 3}, "control_window must be a share"),
        ({"control_image": drawing(12, 20)}, r"12 x 20 pixels and the picture.*another shape"),
    ],
)
def test_what_cannot_be_used(editor, given, match):
    with pytest.raises(ConfigError, match=match):
        editor.edit(TARGET, image=photo(), steps=2, **given)


def test_what_would_go_unheard(plain):
    late = {"control_window": (0.5, 1)}
    for given in ({"control_image": drawing()}, {"control_weight": 2}, late):
        with pytest.raises(ConfigError, match=r"without a network|there is none"):
            plain.edit(TARGET, image=photo(), steps=2, **given)


def test_provenance_tells_of_it(editor, pair, tmp_path):
    result = editor.edit(TARGET, source=SOURCE, steps=2, control_image=drawing(16, 16))
    (path, *_) = result.save(tmp_path / "a.png")
    (one,) = Provenance.from_png(path).control
    assert one["network"] == "edges" and one["kind"] == "controlnet" and one["image"] is None
    assert one["sha256"] == open_image(drawing(16, 16)).sha256
    assert one["fingerprint"] == as_network(pair[1]).fingerprint


def test_made_again_from_the_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from freeprompt.cli.app import app
    from freeprompt.models.tiny import tiny_sd

    monkeypatch.chdir(tmp_path)
    pipe = tiny_sd()  # what the catalogue calls tiny-sd
    tiny_controlnet(pipe).save_pretrained("net")
    tiny_adapter(pipe).save_pretrained("adapter")
    for name in ("edges", "depth"):
        save_png(drawing(64, 64).rotate(90 * (name == "depth")).convert("RGB"), f"{name}.png", {})
    command = ["edit", "a cat", "--source", "a dog", "--model", "tiny-sd", "--steps", "2"]
    command += ["--controlnet", "net", "--adapter", "adapter", "--control", "edges.png"]
    command += ["--control", "depth.png", "--control-weight", "0.5", "--control-window", "0:0.5"]
    assert CliRunner().invoke(app, [*command, "-o", "a.png"], catch_exceptions=False).exit_code == 0
    again = ["edit", "--from", "a.png", "-o", "b.png"]
    assert CliRunner().invoke(app, again, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (tmp_path / "edges.png").rename("moved.png")
    moved = [*again, "--control", "moved.png", "--control", "depth.png"]
    assert CliRunner().invoke(app, moved, catch_exceptions=False).exit_code == 0
    save_png(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "depth.png", {})
    with pytest.raises(ConfigError, match="not the control"):
        CliRunner().invoke(app, moved, catch_exceptions=False)
    with pytest.raises(ConfigError, match="2 control images, and 1 are given"):
        CliRunner().invoke(app, [*again, "--control", "moved.png"], catch_exceptions=False)


def test_a_window_on_the_command_line_is_a_pair():
    from freeprompt.cli.control import control_given

    assert control_given(["a"], [2.0], ["0.2:1"]) == {
        "control_image": "a", "control_weight": 2.0, "control_window": (0.2, 1.0)
    }  # fmt: skip
    assert control_given(None, None, None) == {}
    with pytest.raises(ConfigError, match="FROM:TO"):
        control_given(["a"], None, ["half"])


def test_side_by_side_and_what_outlives_it(editor):
    """The model of an edit with a control image is one more copy; it must not wait for others."""
    edits = [
        lambda own, seed=seed: own.edit(
            TARGET, image=photo(seed=seed), control_image=drawing(), steps=STEPS
        )
        for seed in (0, 1)
    ]
    alone, before = [one(editor) for one in edits], editor.model.sample_forwards
    beside = fp.together(editor, edits)
    spent = editor.model.sample_forwards - before
    assert spent == sum(result.provenance.sample_forwards for result in beside) > 0
    for one, other in zip(alone, beside, strict=True):
        assert distance(one.images[0], other.images[0]) <= 1
        assert other.inverted.model.lane is None, "it would wait for the others for ever"
        assert distance(one.source, other.source) <= 1


def test_what_imagic_keeps_depends_on_it(editor, tmp_path):
    how = {"method": "imagic", "steps": 2, "image": photo(), "keep": tmp_path, **FEW["imagic"]}
    for steering in ({}, {"control_weight": 0.5}):
        for _ in range(2):
            editor.edit(TARGET, control_image=drawing(), **how, **steering)
    assert len(list(tmp_path.iterdir())) == 2 * 2
