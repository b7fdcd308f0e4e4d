"""Ray Data: the same pictures, also when an actor is killed in flight."""

import os
import signal
import time
from pathlib import Path

import pytest
from tests.batch.samples import EDITS, asked, journalled, results, same

from freeprompt.batch import RayData, run

ray = pytest.importorskip("ray", reason="the engine ray needs Ray Data")
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="actors are found through /proc"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster():
    """A small cluster of this machine: two CPUs, nothing sent anywhere."""
    from freeprompt.batch.engines.ray import imported_ray

    found = imported_ray()
    found.init(
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield found
    found.shutdown()


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found[int(path.parent.name)] = int(fields[1])
    return found


def actors() -> list[int]:
    """Return the processes of this test's cluster that hold a model."""
    of, mine = parents(), set[int]()
    for pid in of:
        line = [pid]
        while line[-1] in of and line[-1] != os.getpid():
            line.append(of[line[-1]])
        if line[-1] == os.getpid():
            mine |= set(line[:-1])
    return sorted(pid for pid in mine if b"_Actor" in command(pid))


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_two_actors_make_the_same_though_one_is_killed(
    cluster, tmp_path, whole, manifest, model
) -> None:
    out, killed = tmp_path / "out", []

    def report(advance):
        if 0 < advance.done < EDITS and not killed:
            deadline = time.monotonic() + 60
            while not (found := actors()) and time.monotonic() < deadline:
                time.sleep(0.1)
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

    assert run(asked(manifest, model, out, engine=RayData(actors=2)), report).done == EDITS
    assert killed
    same(out, whole)
    assert sorted(journalled(out)) == sorted(row["id"] for row in results(whole))
    assert cluster.is_initialized()  # a cluster that was there stays
