"""Killed at random moments and resumed: nothing lost, nothing twice, the same results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.batch.samples import journalled, results, same

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed(manifest, model, out, kills: int, seed: int) -> dict:
    command = [sys.executable, "-m", "tests.batch.killed"]
    done = subprocess.run(
        [*command, str(manifest), str(model), str(out), str(kills), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found: dict = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict, kills: int, whole: Path) -> None:
    assert found["kills"] == kills
    assert len(found["finished"]) >= 2
    for name in found["finished"]:
        out = Path(name)
        same(out, whole)
        assert sorted(journalled(out)) == sorted(row["id"] for row in results(whole))


def test_killed_three_times(tmp_path, whole_together, manifest, model) -> None:
    check(killed(manifest, model, tmp_path, 3, seed=0), 3, whole_together)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, whole_together, manifest, model) -> None:
    check(killed(manifest, model, tmp_path, 20, seed=1), 20, whole_together)
