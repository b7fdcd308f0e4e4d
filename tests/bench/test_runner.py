"""The run: nothing lost, nothing twice, and no bad edit ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from freeprompt.bench import Contender, Data, Dataset, Results, Store, runner
from freeprompt.bench.contenders import TUNING_FREE
from freeprompt.bench.items import FileItem
from freeprompt.bench.runner import jobs, run
from freeprompt.errors import ConfigError, SaveError

MEASURED = {"seconds", "peak_mib"}


def timeless(rows):
    """Rows by key without what differs from run to run."""
    found = {}
    for row in rows:
        scores = {name: v for name, v in row["scores"].items() if name not in MEASURED}
        kept = {name: v for name, v in row.items() if name != "provenance"}
        found[row["key"]] = {**kept, "scores": scores}
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    """A whole run, made once."""
    plan = runner.Plan(
        model=str(model),
        device="cpu",
        metrics={"lpips": ""},
        data=Data(cells=("color", "none"), limit=1),
        contenders=(
            Contender(method="copy", steps=2, guidance=3.0),
            Contender(method="ideal"),
            Contender(method="fpe", steps=2, guidance=3.0),
            Contender(method="sdedit", steps=2, guidance=3.0, parameters={"strength": 0.5}),
        ),
    )
    folder = tmp_path_factory.mktemp("finished")
    return plan, run(plan, folder)


def test_a_row_for_every_contender_and_item(finished) -> None:
    plan, store = finished
    rows = store.rows()
    assert [row["key"] for row in rows] == [job.key for job in jobs(plan, plan.data.load())]
    assert len(rows) == 2 * 3 + 2 * 4
    assert [row for row in rows if row["error"]] == []
    by = {(row["label"].split()[0], row["track"]): row for row in rows if row["cell"] == "color"}
    assert ("ideal", "generated") not in by
    assert by["ideal", "real"]["scores"]["ideal_psnr"] == 60
    assert by["copy", "real"]["scores"]["psnr"] == 60
    fpe = by["fpe", "real"]
    assert fpe["scores"]["sample_forwards"] == fpe["provenance"]["sample_forwards"] == 2 + 3 + 2
    assert fpe["provenance"]["method"] == "fpe"
    assert by["copy", "real"]["provenance"] is None


def test_pictures_are_those_that_were_scored(finished) -> None:
    _, store = finished
    for row in store.rows():
        for name, file in row["pictures"].items():
            with Image.open(store.folder / "pictures" / file) as image:
                assert image.size == (64, 64), name
    copies = [row for row in store.rows() if row["label"].startswith("copy")]
    assert copies
    for row in copies:
        pair = [(store.folder / "pictures" / f).read_bytes() for f in row["pictures"].values()]
        assert pair[0] == pair[1]


def test_baselines_stand_in_order(finished) -> None:
    """A model that draws noise keeps nothing; the source and the ideal edit keep all."""
    _, store = finished
    real = Results(tuple(store.rows())).on("real").of("color")
    means = {label.split()[0]: real.by(label) for label in real.labels}
    for score in ("layout", "background_psnr", "ideal_psnr"):
        best = means["ideal"].mean(score).value
        assert best >= means["copy"].mean(score).value > means["fpe"].mean(score).value
    assert means["ideal"].mean("right").value == 1
    assert means["copy"].mean("right").value == means["fpe"].mean("right").value == 0


def test_it_says_what_it_was_made_with(finished) -> None:
    _, store = finished
    about = store.about()
    assert about["dataset"] == "EmojiEdit-Bench 1 (test)"
    assert len(about["fingerprint"]) > 8
    assert about["thresholds"]["mask_iou"] == 0.7
    assert about["commands"]


class StopError(Exception):
    """What ends a run in these tests."""


def stopped_after(count):
    def report(advance):
        if advance.done == count:
            raise StopError

    return report


def test_a_stopped_run_goes_on(finished, tmp_path) -> None:
    plan, whole = finished
    with pytest.raises(StopError):
        run(plan, tmp_path, report=stopped_after(3))
    store = Store(tmp_path)
    before = store.path.read_bytes()
    assert len(store.rows()) == 3
    with store.path.open("ab") as file:  # as if it had been killed while writing
        file.write(b'{"key": "torn", "item": "ha')
    assert len(store.rows()) == 3
    seen = []
    run(plan, tmp_path, report=lambda advance: seen.append((advance.done, advance.total)))
    assert seen[0] == (3, 14)
    assert seen[-1] == (14, 14)
    assert store.path.read_bytes().startswith(before)
    assert timeless(store.rows()) == timeless(whole.rows())
    unchanged = store.path.read_bytes()
    run(plan, tmp_path)
    assert store.path.read_bytes() == unchanged


def test_a_larger_plan_adds_to_what_is_there(finished, tmp_path) -> None:
    plan, _ = finished
    run(replace(plan, contenders=plan.contenders[:2]), tmp_path)
    few = len(Store(tmp_path).rows())
    run(replace(plan, contenders=plan.contenders[:3]), tmp_path)
    assert len(Store(tmp_path).rows()) == few + 4


def test_an_error_is_a_row_and_can_be_tried_again(plan, tmp_path, monkeypatch) -> None:
    picture = tmp_path / "later.png"
    broken = Dataset(
        name="broken",
        items=(
            FileItem(id="0", cell="c", track="real", source="", target="a cat", path=picture),
            FileItem(id="1", cell="c", track="generated", source="a dog", target="a cat"),
        ),
    )
    monkeypatch.setattr(Data, "load", lambda self: broken)
    few = replace(plan, contenders=plan.contenders[2:3])
    rows = run(few, tmp_path / "run").rows()
    assert rows[0]["error"].startswith("ImageError: There is no file")
    assert rows[0]["scores"] == {}
    assert rows[1]["error"] is None
    assert len(run(few, tmp_path / "run").path.read_bytes().splitlines()) == 2
    Image.new("RGB", (64, 64), "red").save(picture)
    rows = run(few, tmp_path / "run", retry=True).rows()
    assert [row["error"] for row in rows] == [None, None]
    assert "right" not in rows[0]["scores"]  # nobody knows the truth of a file


def test_results_of_other_data_are_not_mixed(finished) -> None:
    whole, store = finished
    other = replace(whole, data=replace(whole.data, split="tune"))
    with pytest.raises(ConfigError, match="results of another dataset"):
        run(other, store.folder)


def test_one_run_at_a_time(tmp_path) -> None:
    with Store(tmp_path).writing():
        second = Store(tmp_path).writing()
        with pytest.raises(SaveError, match="Another run is writing"):
            second.__enter__()
    with Store(tmp_path).writing():
        pass


def test_a_damaged_line_is_named(finished, tmp_path) -> None:
    _, store = finished
    lines = store.path.read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([lines[0], "{", lines[1]]) + "\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl', line 2"):
        Store(tmp_path).rows()
    with pytest.raises(ConfigError, match="no results"):
        Store(tmp_path / "nowhere").rows()


def test_every_method_can_be_scored(plan, full_model, tmp_path) -> None:
    few = {"steps": 2, "guidance": 3.0}
    every = tuple(Contender(method=name, **few) for name in TUNING_FREE)
    data = replace(plan.data, cells=("color",))
    rows = run(replace(plan, model=str(full_model), contenders=every, data=data), tmp_path).rows()
    assert {row["label"].split()[0] for row in rows} == set(TUNING_FREE)
    assert {row["label"]: row["error"] for row in rows if row["error"]} == {}


COMMAND = [sys.executable, "-m", "freeprompt", "bench", "run"]


def command_plan(folder: Path, model: Path, processes: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "plan.toml").write_text(
        f'model = "{model}"\ndevice = "cpu"\nprocesses = {processes}\nbaselines = ["ideal"]\n'
        '[data]\ncells = ["color", "none"]\nlimit = 2\n[metrics]\nlpips = ""\n'
        '[[grid]]\nmethod = ["copy", "fpe", "sdedit"]\nsteps = 4\n'
    )
    return [*COMMAND, str(folder / "plan.toml"), "-o", str(folder / "run")]


@pytest.mark.slow
def test_several_processes_do_the_same(model, tmp_path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        subprocess.run(command_plan(tmp_path / name, model, processes), check=True)
    one, two = (Store(tmp_path / name / "run").rows() for name in ("one", "two"))
    assert timeless(one) == timeless(two)


@pytest.mark.slow
def test_a_killed_run_goes_on(model, tmp_path) -> None:
    command = command_plan(tmp_path, model, 2)
    store = Store(tmp_path / "run")
    first = subprocess.Popen(command, start_new_session=True)
    while not (store.path.exists() and store.path.read_bytes().count(b"\n") >= 3):
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = store.path.read_bytes()
    subprocess.run(command, check=True)
    lines = store.path.read_bytes().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == 4 * 3 + 4 * 4
    assert store.path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])


@pytest.mark.parametrize(
    ("program", "typed"),
    [("/bin/freeprompt", "freeprompt"), ("/x/freeprompt/__main__.py", "python -m freeprompt")],
)
def test_the_command_can_be_typed_again(monkeypatch, program, typed) -> None:
    monkeypatch.setattr(sys, "argv", [program, "bench", "run", "my plan.toml"])
    assert runner.command_line() == f"{typed} bench run 'my plan.toml'"
