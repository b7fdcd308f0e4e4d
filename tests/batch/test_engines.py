"""Several processes make the same pictures as one, also when one of them is killed."""

import multiprocessing as mp
import os
import signal
import sys

import pytest
from tests.batch.samples import EDITS, asked, same

from freeprompt.batch import Pool, RayData, Setup, run
from freeprompt.batch.engines import ray
from freeprompt.batch.engines.base import lost
from freeprompt.batch.jobs import Group, Job
from freeprompt.errors import MissingDependency, UnknownModel


def test_a_pool_makes_the_same_though_a_process_is_killed(tmp_path, whole, manifest, model) -> None:
    out, killed = tmp_path / "out", []

    def report(advance):
        if advance.done and not killed:
            victim = next(p for p in mp.active_children() if p.name.startswith("Spawn"))
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    assert run(asked(manifest, model, out, engine=Pool(processes=2)), report).done == EDITS
    assert killed
    same(out, whole)
    assert {p for p in mp.active_children() if p.pid in killed} == set()


def test_a_group_that_is_lost_says_why() -> None:
    jobs = tuple(Job(id=name, row=1, target="x") for name in "ab")
    group = Group(number=0, jobs=jobs, wanted=frozenset("b"))
    (made,) = lost(group, "it died").made
    assert (made.record["id"], made.record["error"], made.png) == ("b", "it died", None)
    assert Group.loads(group.dumps()) == group


def test_without_ray_it_says_what_to_install(tmp_path, manifest, model, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"freeprompt\[ray\]"):
        run(asked(manifest, model, tmp_path / "out", engine=RayData()))
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_model_that_an_actor_cannot_load_ends_the_run(monkeypatch) -> None:
    """Raising in the actor would only drop its groups."""
    pa = pytest.importorskip("pyarrow", reason="Ray Data needs pyarrow")
    actor = ray._Actor(Setup(model="no-such-model", device="cpu"))
    table = actor(pa.table({"group": ["anything"]}))

    class Answers:
        def iter_batches(self, **options):
            yield table

    hands = ray._Hands(None, RayData(), Setup(model="no-such-model"))
    monkeypatch.setattr(hands, "_tables", lambda groups: [object()])
    monkeypatch.setattr(hands, "_dataset", lambda tables: Answers())
    monkeypatch.setattr(hands, "_ray", Stub())
    with pytest.raises(UnknownModel, match="no-such-model"):
        next(hands.finished([]))


class Stub:
    """What of Ray is needed before a data set is made."""

    class data:
        class DataContext:
            max_errored_blocks = 0

            @classmethod
            def get_current(cls):
                return cls()
