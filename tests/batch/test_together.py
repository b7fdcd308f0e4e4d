"""Images side by side: the pictures of each alone, by every engine and after every end."""

import shutil

import numpy as np
import pytest
from PIL import Image
from tests.api.samples import counted_passes, leave_room_for
from tests.batch.samples import EDITS, asked_together, pictures, results, same, write_rows

from freeprompt.batch import Pool, Store, run
from freeprompt.batch.jobs import Group, Job
from freeprompt.batch.worker import Worker


def test_pictures_are_those_of_each_image_alone(whole, whole_together) -> None:
    for alone, beside in zip(results(whole), results(whole_together), strict=True):
        assert alone["error"] == beside["error"]
        assert alone["error"] or alone["sample_forwards"] >= beside["sample_forwards"]
    for name, content in pictures(whole).items():
        with Image.open(whole / name) as one, Image.open(whole_together / name) as other:
            difference = np.asarray(one).astype(int) - np.asarray(other)
        assert content
        assert np.abs(difference).max() <= 1, name


def test_records_say_who_was_beside(whole_together) -> None:
    by = {row["id"]: row for row in results(whole_together)}
    assert by["0/a dog"]["beside"] == 1
    assert by["0/a dog"]["batch"] == 3
    assert Store(whole_together).about()["together"] == 2


def test_passes_are_shared(tmp_path, manifest, model, monkeypatch) -> None:
    """An inversion of two images costs as many passes as of one."""
    sizes = counted_passes(monkeypatch)
    rows = [{"id": f"{i}", "image": f"{i}.png", "target": "a cat"} for i in range(2)]
    for i in range(2):
        shutil.copy(manifest.parent / f"{i}.png", tmp_path)
    path = write_rows(tmp_path / "m.jsonl", rows)
    run(asked_together(path, model, tmp_path / "out"))
    # two steps of inversion, of reconstruction, and of the edit: source in the first alone
    assert sizes == [2, 2, 2, 2, 6, 4]
    assert sum(row["sample_forwards"] for row in results(tmp_path / "out")) == sum(sizes)


def test_a_pool_and_three_shards_make_the_same(tmp_path, whole_together, manifest, model) -> None:
    run(asked_together(manifest, model, tmp_path / "pool", engine=Pool(processes=2)))
    same(tmp_path / "pool", whole_together)
    for index in (1, 0, 2):
        run(asked_together(manifest, model, tmp_path / "shards", index=index, of=3))
    same(tmp_path / "shards", whole_together)


def test_what_is_damaged_is_made_again_in_the_same_company(
    tmp_path, whole_together, manifest, model, monkeypatch
) -> None:
    out = shutil.copytree(whole_together, tmp_path / "copy")
    by = {row["id"]: out / row["file"] for row in results(out) if not row["error"]}
    by["1/a dog"].unlink()
    sizes = counted_passes(monkeypatch)
    assert run(asked_together(manifest, model, out)).done == EDITS
    assert max(sizes) == 2 * (1 + 2 * 3)  # a source row and three targets of each image
    same(out, whole_together)


def test_what_does_not_fit_together_is_made_alone(
    tmp_path, whole, whole_together, manifest, model, monkeypatch
) -> None:
    leave_room_for(7, monkeypatch)
    run(asked_together(manifest, model, tmp_path / "out"))
    found = results(tmp_path / "out")
    assert [row["error"] for row in found] == [row["error"] for row in results(whole)]
    assert pictures(tmp_path / "out").keys() == pictures(whole).keys()


@pytest.fixture(scope="module")
def worker(model) -> Worker:
    return Worker(asked_together("", model, "").setup)  # type: ignore[arg-type]


def packs(worker: Worker, jobs: list[Job]) -> list[list[str]]:
    group = Group(number=0, jobs=tuple(jobs), wanted=frozenset())
    return [[job.id for family in pack for job in family.jobs] for pack in worker._packs(group)]


def test_a_pack_is_as_many_images_as_the_batch_holds(worker) -> None:
    jobs = [
        Job(id=f"{image}{i}", row=1, image=image, target=str(i))
        for image, count in (("a", 3), ("b", 2), ("c", 2), ("d", 9), ("e", 1))
        for i in range(count)
    ]
    found = packs(worker, jobs)
    assert ["".join(dict.fromkeys(name[0] for name in pack)) for pack in found] == [
        "ab",
        "c",
        "d",
        "e",
    ]


def test_what_trains_is_alone(worker) -> None:
    methods = {"a": "fpe", "b": "imagic", "c": "fpe", "d": "fpe"}
    jobs = [
        Job(id=image, row=1, image=image, target="x", method=method)
        for image, method in methods.items()
    ]
    assert packs(worker, jobs) == [["a"], ["b"], ["c", "d"]]


def test_edits_that_evaluate_nothing_have_a_time_too(tmp_path, manifest, model) -> None:
    rows = [
        {"id": f"{i}", "image": f"{i}.png", "target": "a cat", "method": "sdedit", "strength": 0}
        for i in range(2)
    ]
    path, out = write_rows(manifest.with_name("nothing.jsonl"), rows), tmp_path / "out"
    assert run(asked_together(path, model, out)).errors == 0
    assert [row["sample_forwards"] for row in results(out)] == [0, 0]
    assert {row["beside"] for row in results(out)} == {1}
