"""The flags of memory are the fields of `Memory`, and reach the model and the picture's recipe."""

import inspect
import json

import pytest
from typer.testing import CliRunner

from freeprompt.cli.app import app
from freeprompt.cli.loading import MEMORY
from freeprompt.models import Memory

EDIT = [
    *("edit", "a red cat", "a blue cat", "--source", "a red dog", "--model", "tiny-sd"),
    *("--steps", "2", "--device", "cpu", "--json"),
]


def edit(out, *more):
    return CliRunner().invoke(app, [*EDIT, "-o", str(out), *more])


def test_there_is_a_flag_for_every_field():
    assert list(MEMORY) == list(Memory.specs())
    for name, flag in MEMORY.items():
        assert flag.default is None, name  # what is not given stays what `Memory` says
        kind = type(getattr(Memory(), name)).__name__
        assert kind in str(inspect.get_annotations(_carrier(), eval_str=True)[name]), name


def _carrier():
    from freeprompt.cli import loading

    return loading._memory


def test_flags_reach_the_recipe(tmp_path):
    result = edit(tmp_path, "--at-once", "1", "--channels-last", "--no-step-down")
    assert json.loads(result.stdout)["memory"] == {
        "at_once": 1,
        "channels_last": True,
        "step_down": False,
    }
    assert json.loads(edit(tmp_path).stdout)["memory"] == {}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--offload", "gpu"], "one of none, model, sequential; got 'gpu'"),
        (["--offload", "model"], "keeps weights off an accelerator"),
        (["--offload", "model", "--compile"], "exclude each other"),
        (["--at-once", "-1"], "at least 0; got -1"),
    ],
)
def test_what_makes_no_sense(tmp_path, flags, said):
    result = edit(tmp_path, *flags)
    assert result.exit_code != 0
    assert said in " ".join(str(result.exception).split())
