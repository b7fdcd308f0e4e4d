"""Every method on one source: costs are whole, refusals are cells, the source is the same."""

import json

import pytest
from typer.testing import CliRunner

from freeprompt.api import Editor
from freeprompt.api.compare import chosen_methods, compare
from freeprompt.cli.app import app
from freeprompt.errors import ConfigError, UnknownMethod
from freeprompt.images import read_png_text
from freeprompt.methods import METHODS
from freeprompt.models.tiny import tiny_sd

SOURCE, TARGET = "a red dog", "a blue cat"
FEW = {
    "masactrl": {"start": 1},
    "edit-friendly": {"skip": 0.25},
    "imagic": {"embedding_steps": 2, "model_steps": 2},
}


@pytest.fixture(scope="module")
def editor():
    return Editor(tiny_sd(sample_size=8), name="tiny")


@pytest.fixture(scope="module")
def generated(editor):
    return compare(editor, TARGET, source=SOURCE, steps=4, settings=FEW)


def test_all_methods_work_on_a_generated_source(generated):
    fitting = [name for name, method in METHODS.items() if not method.instructs]
    assert [e.method for e in generated.entries] == fitting
    assert [e.refused for e in generated.entries] == [""] * len(fitting)


def test_the_source_is_the_same_for_all(editor, generated):
    plain = editor.edit(TARGET, source=SOURCE, steps=4).source
    assert generated.source.tobytes() == plain.tobytes()


def test_a_shared_inversion_is_in_every_cost(editor, generated):
    seen = []
    hook = editor.pipe.unet.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    real = compare(
        editor,
        TARGET,
        source=SOURCE,
        image=generated.source,
        methods="fpe,pnp,sdedit",
        steps=4,
    )
    hook.remove()
    alone = [
        editor.edit(TARGET, source=SOURCE, image=generated.source, method=name, steps=4)
        for name in ("fpe", "pnp", "sdedit")
    ]
    for entry, one in zip(real.entries, alone, strict=True):
        assert entry.result.images[0].tobytes() == one.images[0].tobytes()
        assert entry.sample_forwards == one.provenance.sample_forwards
    assert sum(seen) == sum(e.sample_forwards for e in real.entries) - 4  # inverted once


def test_a_method_that_records_has_an_inversion_of_its_own(editor, generated):
    made = compare(
        editor,
        TARGET,
        image=generated.source,
        methods="pnp,fpe",
        steps=4,
        settings={"fpe": {"record": "inversion"}},
    )
    assert [entry.refused for entry in made.entries] == ["", ""]


def test_a_refusal_is_shown_and_the_others_go_on(editor):
    done = compare(
        editor,
        TARGET,
        source=SOURCE,
        methods=["p2p", "fpe"],
        steps=2,
        settings={"p2p": {"blend_words": "horse,cat"}},
    )
    refused, worked = done.entries
    assert "horse" in refused.refused
    assert refused.result is None
    assert worked.result is not None
    assert refused.caption == "p2p: refused"
    width, height = done.picture(columns=3).size
    assert width > 3 * 256
    assert height > 256
    assert done.picture(columns=1).size[1] > 3 * 256


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"methods": "fpee"}, UnknownMethod, "fpe"),
        ({"methods": []}, ConfigError, "no method"),
        ({"methods": "fpe", "settings": {"p2p": {}}}, ConfigError, "'p2p', which is not compared"),
        ({"methods": "fpe", "settings": {"fpe": {"shar": 1}}}, ConfigError, "share"),
        ({"source": None}, ConfigError, "nothing to edit"),
    ],
)
def test_refused_before_any_work(editor, more, kind, message):
    before = editor.model.sample_forwards
    with pytest.raises(kind, match=message):
        compare(editor, TARGET, **{"source": SOURCE, **more})
    assert editor.model.sample_forwards == before


def test_names():
    assert chosen_methods("all") == tuple(METHODS)
    assert chosen_methods(" p2p, fpe,p2p") == ("p2p", "fpe")


class TestCommand:
    def run(self, *args):
        return CliRunner().invoke(app, ["compare", *args], catch_exceptions=False)

    def test_grid_files_and_costs(self, tmp_path):
        out = tmp_path / "all"
        plan = ["--source", SOURCE, "--methods", "fpe,sdedit", "--model", "tiny-sd"]
        done = self.run(TARGET, *plan, "--steps", "2", "--set", "fpe.share=1", "-o", str(out))
        assert done.exit_code == 0
        assert "sample-forwards" in done.stdout
        data = json.loads((out / "comparison.json").read_text())
        assert [e["sample_forwards"] for e in data["entries"]] == [8, 6]
        assert data["entries"][0]["provenance"]["parameters"]["share"] == 1
        assert "freeprompt" in read_png_text(out / "fpe.png")
        assert (out / "comparison.png").is_file()

    def test_a_setting_without_a_method(self, tmp_path):
        with pytest.raises(ConfigError, match=r"p2p\.cross=0\.8; got 'share=1'"):
            self.run(TARGET, "--source", SOURCE, "--set", "share=1", "-o", str(tmp_path / "x"))
