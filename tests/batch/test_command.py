"""`freeprompt batch` as a user sees it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.batch.samples import EDITS, asked_together, journalled, results, same, write_rows
from tests.cli.conftest import freeprompt, here  # noqa: F401

from freeprompt.batch import look, run

HOW = (
    *("--device", "cpu", "--steps", 2, "--guidance", 3.0, "--metric", "psnr"),
    *("--batch-size", 6, "--together", 2),
)


def test_a_run_and_its_status(freeprompt, here, manifest, model, whole_together) -> None:  # noqa: F811
    ended = freeprompt("batch", manifest, "-o", "out", "--model", model, *HOW)
    assert ended.code == 1  # one row could not be done
    assert ended.out == f"{EDITS - 1} of {EDITS} edits are in out\n"
    assert "1 edits failed. `freeprompt batch status out` says why" in ended.err
    same(here / "out", whole_together)
    ended = freeprompt("batch", "status", "out")
    assert ended.code == 0
    assert ended.out.startswith(f"{EDITS - 1} done, 1 failed, 0 left of {EDITS}\n")
    assert "1 x ImageError: There is no file '...'" in ended.out
    said = json.loads(freeprompt("batch", "status", "out", "--json").out)
    assert (said["done"], said["left"], said["seconds_left"]) == (EDITS - 1, 0, 0)
    ended = freeprompt("batch", manifest, "-o", "out", "--no-resume")
    assert (ended.code, "holds a run already" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "rya"], "did you mean 'ray'"),
        (["--engine", "shard"], "needs --index and --of"),
        (["--index", 1, "--of", 2], "belong to --engine shard"),
        (["--engine", "shard", "--index", 2, "--of", 2], "0 to 1"),
        (["--engine", "local", "--processes", 2], "--engine pool"),
        (["--engine", "pool", "--processes", 0], "from 1 on"),
        (["--metric", "psrn"], "did you mean 'psnr'"),
        (["--metric", "clip"], "--weights clip="),
        (["--weights", "clip"], "--weights takes name=value, such as clip=FOLDER"),
        (["--weights", "clip=a"], "read by no --metric"),
        (["--metric", "clip", "--weights", "clpi=a"], "did you mean 'clip'"),
        (["--address", "auto"], "belong to --engine ray"),
        (["--engine", "pool", "--actors", 2], "belong to --engine ray"),
        (["--engine", "ray", "--processes", 2], "ray has --actors"),
        (["--set", "shar=1"], "did you mean 'share'"),
        (["--format", "zip"], "Available: folders, wds"),
        (["--verify", "maybe"], "Available: hash, none, size"),
        (["-o", "s3://bucket/out"], "to a folder of a disk; got 's3:/bucket/out'"),
        (["-o", "memory://out"], "to a folder of a disk"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(freeprompt, here, words, says) -> None:  # noqa: F811
    manifest = write_rows(here / "m.jsonl", [{"id": "a", "source": "a dog", "target": "a cat"}])
    ended = freeprompt("batch", manifest, "-o", "out", "--model", "no-such-model", *words)
    assert ended.code == 2
    assert says in ended.err
    assert [path.name for path in here.iterdir()] == ["m.jsonl"]


def test_a_bad_manifest_costs_no_model(freeprompt, here) -> None:  # noqa: F811
    manifest = write_rows(here / "m.jsonl", [{"id": "a", "image": "../a.png", "target": "a cat"}])
    ended = freeprompt("batch", manifest, "-o", "out", "--model", "no-such-model")
    assert ended.code == 2
    assert "row 1, image: must lie below" in ended.err
    assert not (here / "out").exists()


def test_slurm_says_which_shard(freeprompt, here, manifest, model, monkeypatch) -> None:  # noqa: F811
    for name, value in {"TASK_ID": 4, "TASK_MIN": 1, "TASK_MAX": 9, "TASK_COUNT": 9}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", str(value))
    freeprompt("batch", manifest, "-o", "out", "--engine", "shard", "--model", model, *HOW)
    assert [path.name for path in (here / "out" / "journal").iterdir()] == [
        "part-00003-of-00009.jsonl"
    ]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        ({"ID": 3, "MIN": 3, "MAX": 3, "COUNT": 1}, ["--of", 64]),  # one task handed in again
        ({"ID": 7, "MIN": 3, "MAX": 7, "COUNT": 2}, []),
        ({"ID": 62, "MIN": 0, "MAX": 62, "COUNT": 32}, []),
    ],
)
def test_a_part_of_an_array_is_not_taken_for_the_whole(
    freeprompt,  # noqa: F811
    here,  # noqa: F811
    manifest,
    monkeypatch,
    array,
    words,
) -> None:
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    ended = freeprompt("batch", manifest, "-o", "out", "--engine", "shard", *words)
    assert ended.code == 2
    assert "Give --index and --of" in ended.err
    assert not (here / "out").exists()


def test_sigterm_stops_cleanly_and_says_how_to_go_on(
    tmp_path, manifest, model, whole_together
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "freeprompt", "batch", str(manifest), "-o", str(out)]
    command += ["--model", str(model), *map(str, HOW)]
    slow = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=slow) as process:
        deadline = time.monotonic() + 240
        while not journalled(out) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    if process.returncode == 1:  # it was done before the signal came
        same(out, whole_together)
        return
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
    assert str(manifest) in said.splitlines()[-1]
    assert 0 < look(out).done < EDITS
    run(asked_together(manifest, model, out))  # as the command, without a new Python
    same(out, whole_together)
    assert sorted(journalled(out)) == sorted(row["id"] for row in results(whole_together))
