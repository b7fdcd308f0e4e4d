"""A run: everything made once, nothing lost, and one bad edit ends nothing."""

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.batch.samples import (
    BAD,
    EDITS,
    TARGETS,
    asked,
    journalled,
    pictures,
    results,
    same,
    strays,
    write_rows,
)

import freeprompt as fp
from freeprompt.api.provenance import Provenance
from freeprompt.batch import Defaults, Stopped, Store, look, run
from freeprompt.batch.sinks import verified
from freeprompt.batch.worker import Worker
from freeprompt.errors import ConfigError, FreepromptError, ModelError, SaveError
from freeprompt.methods import METHODS

PSNR = "reconstruction_psnr_db"


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Names of the edits that workers have made, as they make them."""
    made: list[str] = []
    original = Worker.finished

    def finished(self, group):
        made.extend(sorted(group.wanted))
        return original(self, group)

    monkeypatch.setattr(Worker, "finished", finished)
    return made


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_one_record_an_edit_in_the_order_of_the_manifest(whole, manifest) -> None:
    rows = results(whole)
    assert len(rows) == EDITS
    assert [row["id"] for row in rows[:3]] == [f"{i}/{TARGETS[0]}" for i in range(3)]
    assert [row["row"] for row in rows] == sorted(row["row"] for row in rows)
    by = {row["id"]: row for row in rows}
    assert [name for name, row in by.items() if row["error"]] == ["gone"]
    assert by["gone"]["error"].startswith("ImageError: There is no file")
    assert by["drawn"]["_label"] == 3
    first = by["0/a red cat"]
    assert first["scores"].keys() == {"psnr"}
    assert first[PSNR] > 0
    # inversion and reconstruction are shared by three, the edits by a batch of two and one
    assert first["sample_forwards"] == pytest.approx((2 + 2) / 3 + (1 * 1 + 2 * 4) / 2, abs=1e-3)
    assert first["batch"] == 2
    assert {row["steps"] for row in rows if not row["error"]} == {2}
    assert by["generated-0"]["file"] != by["generated-1"]["file"]


def test_pictures_are_what_the_editor_makes(whole, manifest, model) -> None:
    by = {row["id"]: row for row in results(whole)}
    row = by["2/a red cat"]
    path = whole / row["file"]
    with Image.open(path) as picture:
        assert picture.size == (16, 16)
    editor = fp.load(model, device="cpu")
    targets = [TARGETS[0], TARGETS[1]]
    edit = editor.edit(targets, image=manifest.parent / "2.png", steps=2, guidance=3.0)
    with Image.open(path) as picture:
        assert picture.tobytes() == edit.images[0].tobytes()
    recipe = Provenance.from_png(path)
    assert recipe.targets == tuple(targets)
    assert recipe.image == "2.png"
    assert recipe.model_fingerprint == edit.provenance.model_fingerprint


def test_the_table_says_what_the_lines_say(whole) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as pq

    table = pq.read_table(whole / "results.parquet").to_pylist()
    rows = results(whole)
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    for found, row in zip(table, rows, strict=True):
        assert found["error"] == row["error"]
        assert found["sha256"] == row.get("sha256")
        assert found["seed"] == row["seed"]
        assert json.loads(found["parameters"]) == row["parameters"]
    assert table[-2]["_label"] == "3"


def test_a_finished_run_makes_nothing_again(copy, whole, manifest, model, counted) -> None:
    before = (copy / "journal" / "part-00000-of-00001.jsonl").read_bytes()
    assert run(asked(manifest, model, copy)).done == EDITS
    assert counted == []
    assert (copy / "journal" / "part-00000-of-00001.jsonl").read_bytes() == before
    same(copy, whole)


def test_what_is_gone_or_damaged_is_made_again(copy, whole, manifest, model, counted) -> None:
    by = {row["id"]: copy / row["file"] for row in results(copy) if not row["error"]}
    by["1/a dog"].unlink()
    by["drawn"].write_bytes(by["drawn"].read_bytes()[:-1] + b"x")
    by["2/a dog"].write_bytes(by["2/a dog"].read_bytes()[:-7])
    run(asked(manifest, model, copy, verify="none"))
    assert counted == []
    run(asked(manifest, model, copy, verify="size"))
    assert counted == ["1/a dog", "2/a dog"]
    run(asked(manifest, model, copy))
    assert counted == ["1/a dog", "2/a dog", "drawn"]
    same(copy, whole)


def test_a_torn_journal_goes_on(copy, whole, manifest, model) -> None:
    path = copy / "journal" / "part-00000-of-00001.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:3]) + b"\n" + lines[3][:40])
    (copy / ".drafts").mkdir()
    (copy / ".drafts" / "part-00000-of-00001.png").write_bytes(b"half")
    run(asked(manifest, model, copy))
    same(copy, whole)
    assert sorted(journalled(copy)) == sorted(row["id"] for row in results(whole))


def test_numbers_that_json_does_not_know_are_the_same_after_a_restart(tmp_path, model) -> None:
    row = {"id": "a", "image": "a.png", "target": "a cat", "_mine": [math.inf, math.nan]}
    manifest, out = write_rows(tmp_path / "m.jsonl", [row]), tmp_path / "out"
    run(asked(manifest, model, out))
    first = (out / "results.jsonl").read_bytes()
    assert json.loads(first)["_mine"] == ["inf", "nan"]
    run(asked(manifest, model, out))
    assert (out / "results.jsonl").read_bytes() == first


def test_errors_are_made_again_when_asked(tmp_path, model, counted) -> None:
    rows = [{"id": "a", "image": "a.png", "target": "a cat"}]
    manifest = write_rows(tmp_path / "m.jsonl", rows)
    out = tmp_path / "out"
    assert run(asked(manifest, model, out)).errors == 1
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    assert run(asked(manifest, model, out)).errors == 1
    assert counted == ["a"]
    assert run(asked(manifest, model, out, retry=True)).errors == 0
    assert counted == ["a", "a"]
    assert run(asked(manifest, model, out)).errors == 0
    assert results(out)[0]["error"] is None
    found = look(out)
    assert (found.done, found.failed, found.total, found.left) == (1, 0, 1, 0)


def test_a_manifest_may_grow_and_change(tmp_path, manifest, model, counted) -> None:
    shutil.copy(manifest.parent / "0.png", tmp_path)
    rows = [{"id": name, "image": "0.png", "target": f"a {name}"} for name in ("cat", "dog")]
    out, path = tmp_path / "out", tmp_path / "m.jsonl"
    run(asked(write_rows(path, rows), model, out))
    before = pictures(out)
    rows[1]["target"] = "a car"
    run(asked(write_rows(path, [*rows[::-1], {**rows[0], "id": "new"}]), model, out))
    assert counted == ["cat", "dog", "dog", "new"]
    assert [row["id"] for row in results(out)] == ["dog", "cat", "new"]
    kept = {name for name, content in pictures(out).items() if before.get(name) == content}
    assert kept == {row["file"] for row in results(out) if row["id"] == "cat"}


def test_one_bad_prompt_of_a_batch_spoils_no_other(tmp_path, manifest, model, monkeypatch) -> None:
    shutil.copy(manifest.parent / "0.png", tmp_path)
    original = METHODS["fpe"].__call__

    def picky(self, model, task):
        if "a bad one" in task.targets:
            raise ValueError("not this one")
        return original(self, model, task)

    monkeypatch.setattr(METHODS["fpe"], "__call__", picky)
    rows = [{"id": "x", "image": "0.png", "targets": ["a cat", "a bad one", "a dog"]}]
    out = tmp_path / "out"
    run(asked(write_rows(tmp_path / "m.jsonl", rows), model, out))
    found = {row["id"]: row["error"] for row in results(out)}
    assert found == {"x-0": None, "x-1": "ValueError: not this one", "x-2": None}


class Disk:
    """A disk that is full whenever a test says so."""

    def __init__(self, monkeypatch):
        self.full = False
        write = Path.write_bytes

        def write_bytes(path, content):
            if self.full and path.suffix == ".png":
                write(path, content[:10])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_a_full_disk_is_reported_by_row_and_the_rest_is_done(
    tmp_path, whole, manifest, model, monkeypatch
) -> None:
    disk, out = Disk(monkeypatch), tmp_path / "out"

    def report(advance):
        disk.full = 3 <= advance.done < 9

    run(asked(manifest, model, out), report)
    failed = [row for row in results(out) if row["error"]]
    assert len(failed) == 6 + BAD
    assert sum("No space left" in row["error"] for row in failed) == 6
    assert strays(out) == []
    assert {row["id"]: row for row in results(whole)}.keys() == {r["id"] for r in results(out)}
    disk.full = False
    run(asked(manifest, model, out, retry=True))
    same(out, whole)


def test_a_disk_that_stays_full_ends_the_run(tmp_path, model, monkeypatch) -> None:
    disk = Disk(monkeypatch)
    disk.full = True
    rows = [{"id": f"{i}", "source": "a dog", "targets": ["a cat", "a car"]} for i in range(14)]
    manifest = write_rows(tmp_path / "m.jsonl", rows)
    with pytest.raises(SaveError, match=r"last 10 groups could not be written.*No space left"):
        run(asked(manifest, model, tmp_path / "out", defaults=Defaults(steps=1)))
    assert look(tmp_path / "out").failed == 20  # groups of two


def test_a_journal_on_a_full_disk_uses_the_reserve(tmp_path, manifest, model, monkeypatch) -> None:
    from freeprompt import journal

    out, real = tmp_path / "out", os.write
    reserve = out / "journal" / ".reserve-part-00000-of-00001"

    def write(handle, data):
        if reserve.exists() and len(data) > 1:
            real(handle, data[: len(data) // 2])  # as much as there is room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    monkeypatch.setattr(journal.os, "write", write)
    run(asked(manifest, model, out))
    monkeypatch.undo()
    assert look(out).done == EDITS - BAD
    assert not reserve.exists()


def test_results_of_two_models_are_not_mixed(copy, manifest, model, tmp_path) -> None:
    from tests.api.samples import thin_sd

    other = tmp_path / "thin"
    thin_sd().save_pretrained(other)
    changed = write_rows(
        manifest.with_name("changed.jsonl"), [{"id": "n", "image": "0.png", "target": "a cat"}]
    )
    with pytest.raises(ConfigError, match="results of another fingerprint"):
        run(asked(changed, other, copy))
    with pytest.raises(ConfigError, match=r"results of another format \(folders; now wds\)"):
        run(asked(manifest, model, copy, format="wds"))


def test_a_metric_without_weights_ends_the_run_at_once(
    tmp_path, manifest, model, monkeypatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    plan = asked(manifest, model, tmp_path / "out")
    setup = replace(plan.setup, metrics=("lpips",), networks={"lpips": "squeeze"})
    with pytest.raises(ModelError, match=r"cannot be measured.*lacks squeezenet"):
        run(replace(plan, setup=setup))


def test_what_the_run_is_outlives_a_power_cut(tmp_path, monkeypatch) -> None:
    """A renamed file whose content is not on the disk yet is an empty one afterwards."""
    seen: list[tuple[str, int]] = []
    rename = Path.replace

    def fsync(handle):
        seen.append(("written", os.fstat(handle).st_ino))

    def replace(path, target):
        seen.append(("renamed", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    Store(tmp_path).begin({"fingerprint": "0"})
    file = (tmp_path / "run.json").stat().st_ino
    assert seen == [("written", file), ("renamed", file)]


def test_two_runs_do_not_write_at_once(tmp_path, manifest, model) -> None:
    out = tmp_path / "out"

    def again(advance):
        with pytest.raises(SaveError, match="Another run is writing"):
            run(asked(manifest, model, out))
        raise Stopped(15)

    with pytest.raises(Stopped):
        run(asked(manifest, model, out), again)


def test_three_shards_are_one_run(tmp_path, whole, manifest, model) -> None:
    out = tmp_path / "out"
    for index in (2, 0):
        run(asked(manifest, model, out, index=index, of=3))
        assert not (out / "results.jsonl").exists()
    assert sorted(path.name for path in (out / "journal").glob("part-*")) == [
        "part-00000-of-00003.jsonl",
        "part-00002-of-00003.jsonl",
    ]
    run(asked(manifest, model, out, index=1, of=3))
    same(out, whole)
    assert sorted(journalled(out)) == sorted(row["id"] for row in results(whole))
    run(asked(manifest, model, out))  # as one shard, it finds all done
    same(out, whole)


def test_results_name_the_place_that_holds_in_every_shard(tmp_path, manifest, model) -> None:
    """A picture that was damaged and made again stands twice in the journal of its shard."""
    rows = [{"id": f"{i}", "source": "a dog", "target": "a cat"} for i in range(2)]
    path, out = write_rows(tmp_path / "m.jsonl", rows), tmp_path / "out"

    def shard(index):
        run(asked(path, model, out, index=index, of=2, format="wds", defaults=Defaults(steps=1)))

    shard(0)
    with (out / "shards" / "part-00000-of-00002-000000.tar").open("r+b") as tar:
        tar.seek(600)
        tar.write(b"damage")
    shard(0)
    for index in (1, 0):  # whoever writes the results
        shard(index)
        assert all(verified(out, row, "hash") for row in results(out))


def test_status_of_a_run_that_goes_on(tmp_path, manifest, model) -> None:
    out = tmp_path / "out"
    seen = []

    def report(advance):
        if advance.done:
            seen.append(look(out))
        if advance.done >= 6:
            raise Stopped(2)

    with pytest.raises(Stopped):
        run(asked(manifest, model, out), report)
    last = seen[-1]
    assert (last.done, last.total, last.left) == (6, EDITS, EDITS - 6)
    assert last.rate > 0
    assert last.seconds_left == pytest.approx((EDITS - 6) / last.rate)
    with pytest.raises(ConfigError, match="no folder of a run"):
        look(tmp_path)


@pytest.mark.parametrize(
    "change", [{"format": "zip"}, {"verify": "maybe"}, {"index": 2, "of": 2}, {"index": -1}]
)
def test_what_a_run_may_not_be(tmp_path, manifest, model, change) -> None:
    with pytest.raises(ConfigError):
        asked(manifest, model, tmp_path, **change)


@pytest.mark.filterwarnings("ignore::freeprompt.errors.FreepromptWarning")
def test_every_method_says_rightly_whether_it_is_seeded(model, manifest) -> None:
    """If it is not, edits with different seeds are made in one batch."""
    editor, checked = fp.load(model, device="cpu"), set()
    options = {"image": manifest.parent / "0.png", "source": "a red dog", "steps": 4}
    for name in METHODS:
        if METHODS[name].seeded:
            continue
        try:
            one, other = (
                editor.edit("a red cat", method=name, seed=seed, **options).images[0].tobytes()
                for seed in (1, 2)
            )
        except FreepromptError:  # it does not edit so small a model
            continue
        assert one == other, name
        checked.add(name)
    assert {"fpe", "p2p", "masactrl"} <= checked
