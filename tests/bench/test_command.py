"""`freeprompt bench` from the command line, and its plans."""

import json

import pytest
from tests.cli.conftest import freeprompt, here  # noqa: F401

from freeprompt.bench import BASELINES, find_plan, read_plan, shipped_plans
from freeprompt.bench.contenders import TUNING_FREE
from freeprompt.errors import ConfigError
from freeprompt.inversion import INVERSIONS

PLAN = """
model = "{model}"
device = "cpu"
baselines = ["ideal"]
[data]
cells = ["color"]
limit = 1
tracks = ["real"]
[metrics]
lpips = ""
[[grid]]
method = ["fpe", "sdedit"]
steps = 3
[grid.set]
share = 0.5
"""


def test_run_report_compare(freeprompt, here, model) -> None:  # noqa: F811
    (here / "plan.toml").write_text(PLAN.format(model=model))
    end = freeprompt("bench", "run", "plan.toml", "-o", "run")
    assert end.code == 0, end.err
    assert "3 of 3 edits" in end.err
    assert "freeprompt bench report run" in end.out
    end = freeprompt("bench", "report", "run")
    assert end.out.split() == ["run/report.html", "run/report.md"]
    page = (here / "run" / "report.html").read_text()
    assert "3 steps, but for methods" in page
    assert "fpe (share=0.5)" in page
    end = freeprompt("bench", "compare", "run", "ideal", "sdedit (steps=3)", "--json")
    (right,) = [row for row in json.loads(end.out) if row["score"].startswith("right")]
    assert (right["first"], right["second"], right["won"]) == ("100.0", "0.0", 1)
    table = freeprompt("bench", "compare", "run", "ideal", "sdedit", "--score", "layout")
    assert "layout ↑" in table.out and "right" not in table.out
    wrong = freeprompt("bench", "compare", "run", "ideal", "sdedi")
    assert wrong.code == 2
    assert "did you mean 'sdedit'" in wrong.err


def test_tune_then_run(freeprompt, here, model) -> None:  # noqa: F811
    (here / "plan.toml").write_text(PLAN.format(model=model))
    words = ["--trials", 2, "--limit", 1, "--track", "real", "-o", "tuned"]
    end = freeprompt("bench", "tune", "plan.toml", *words)
    assert end.code == 0, end.err
    assert "4 of 4 trials" in end.err
    words = ["--include", "tuned/tuned.toml", "-o", "run"]
    end = freeprompt("bench", "run", "plan.toml", *words)
    assert end.code == 0, end.err
    rows = (here / "run" / "rows.jsonl").read_text()
    assert "fpe (tuned)" in rows and "sdedit (tuned)" in rows
    (note,) = json.loads((here / "run" / "run.json").read_text())["notes"]
    assert note.startswith("Tuned settings: 2 trials of each method on 1 items")
    freeprompt("bench", "report", "run")
    settings = (here / "run" / "report.md").read_text().partition("not defaults")[2]
    assert "| fpe (tuned) | real |" in settings


def test_data_sets_are_listed(freeprompt) -> None:  # noqa: F811
    listed = json.loads(freeprompt("bench", "data", "--json").out)
    assert "mapping_file.json" in listed["pie-bench"]["needs"]
    assert "PIE-Bench" in freeprompt("bench", "data").out


def test_shipped_plans_name_everybody_by_themselves() -> None:
    plans = {name: read_plan(path) for name, path in shipped_plans().items()}
    assert set(plans) == {"emojiedit", "inversions", "pie-bench", "protection"}
    assert [c.method for c in plans["emojiedit"].contenders] == [*BASELINES, *TUNING_FREE]
    assert {c.inversion for c in plans["inversions"].contenders} == {None, *INVERSIONS}
    assert plans["pie-bench"].metrics["ways"] == ["area", "pie"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell = 3", "Unknown setting 'modell'"),
        ("model = ", "cannot be read as TOML"),
        ("[data]\nname = 'pie'\n[[grid]]\nmethod = 'fpe'", "Unknown data set 'pie'"),
        ("[data]\nlimits = 3", "did you mean 'limit'"),
        ("[data]\ntracks = 'real'", "tracks must be a list of names; got 'real'"),
        ("[[pictures]]\nlabel = 'x'", "needs a label and a folder"),
        ("[[pictures]]\nfolders = 'x'", "did you mean 'folder'"),
        ("baselines = []", "names nobody who edits"),
        ("processes = 0\n[[grid]]\nmethod = 'fpe'", "processes must be a whole number from 1"),
        ("[[grid]]\nmethod = 'fpee'", "did you mean 'fpe'"),
        ("[metrics]\nclipp = ''\n[[grid]]\nmethod = 'fpe'", "did you mean 'clip'"),
    ],
)
def test_faults_of_a_plan_name_the_file(tmp_path, text, message) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"plan\.toml': .*{message}"):
        read_plan(tmp_path / "plan.toml")


def test_plans_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pie-bench'"):
        find_plan("pie-bensh")
    with pytest.raises(ConfigError, match=r"no plan 'mine\.toml'"):
        find_plan("mine.toml")
