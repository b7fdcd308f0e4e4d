"""Manifests: what is read, and what is refused with file, row and field before any model."""

import json
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from tests.batch.samples import write_rows

from freeprompt.batch import Defaults, Reader
from freeprompt.batch.jobs import row_seed
from freeprompt.batch.worklist import Worklist
from freeprompt.errors import ConfigError, UnknownMethod

GOOD = {"id": "a", "image": "a.png", "target": "a cat"}


def read(path: Path, **defaults):
    return list(Reader(str(path), Defaults(**defaults)).jobs())


def refused(path: Path, **defaults) -> str:
    with pytest.raises(ConfigError) as found:
        read(path, **defaults)
    return str(found.value)


def test_the_three_formats_say_the_same(tmp_path) -> None:
    rows = [
        {**GOOD, "steps": 4, "guidance": 5.0, "method": "fpe", "share": 0.5, "native": True},
        {"id": "b", "source": "a dog", "targets": ["a cat", "a car"], "seed": 3, "_label": "x"},
    ]
    jsonl = write_rows(tmp_path / "m.jsonl", rows)
    csv = tmp_path / "m.csv"
    csv.write_text(
        "id,image,source,target,targets,steps,guidance,method,share,native,seed,_label\n"
        "a,a.png,,a cat,,4,5.0,fpe,0.5,true,,\n"
        "b,,a dog,,a cat | a car,,,,,,3,x\n"
    )
    first, second = read(jsonl), read(csv)
    assert [job.id for job in first] == ["a", "b-0", "b-1"]
    assert [job.row for job in first] == [1, 2, 2]
    # a cell of CSV is text, and parameters are converted by whoever has them
    assert second[0].parameters == {"share": "0.5"}
    assert second[0].pair.method == first[0].pair.method
    assert second[1:] == first[1:]
    assert second[0].group_key() == first[0].group_key()
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert read(tmp_path / "m.parquet") == first


def test_flags_hold_where_a_row_says_nothing(tmp_path) -> None:
    rows = [GOOD, {**GOOD, "id": "b", "method": "sdedit", "steps": 7, "negative": ""}]
    jobs = read(
        write_rows(tmp_path / "m.jsonl", rows), parameters={"share": "0.5"}, steps=3, negative="x"
    )
    assert [job.steps for job in jobs] == [3, 7]
    assert [dict(job.parameters) for job in jobs] == [{"share": "0.5"}, {}]
    assert [job.negative for job in jobs] == ["x", ""]


def test_seeds_follow_from_names_where_something_is_drawn(tmp_path) -> None:
    rows = [
        {"id": "a", "source": "a dog", "target": "a cat"},
        {"id": "b", "source": "a dog", "target": "a cat"},
        {"id": "c", "image": "a.png", "target": "a cat", "method": "sdedit"},
        {"id": "d", "image": "a.png", "target": "a cat"},
        {"id": "e", "image": "a.png", "target": "a car"},
    ]
    path = write_rows(tmp_path / "m.jsonl", rows)
    a, b, c, d, e = read(path, seed=5)
    assert (a.seed, b.seed, c.seed) == tuple(row_seed(5, name) for name in "abc")
    assert len({a.seed, b.seed, c.seed}) == 3
    assert d.seed == e.seed == 5  # FPE of an inverted image draws nothing: one batch
    assert d.group_key() == e.group_key() != c.group_key()
    assert {job.seed for job in read(path, seed=5, seeds="given")} == {5}
    assert 0 <= row_seed(0, "a") == row_seed(0, "a") != row_seed(1, "a")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"id": None}, "id", "is missing"),
        ({"id": ""}, "id", "is missing"),
        ({"id": "  "}, "id", "say something"),
        ({"id": 1.5}, "id", "must be text; got 1.5"),
        ({"id": "x" * 300}, "id", "too long"),
        ({"target": None}, "target", "is missing"),
        ({"target": " "}, "target", "must say something"),
        ({"target": 3}, "target", "must be text; got 3"),
        ({"targets": ["a"]}, "targets", "beside target"),
        ({"target": None, "targets": []}, "targets", "list of texts"),
        ({"image": None}, "image", "is missing; give image"),
        ({"image": "../a.png"}, "image", "leads out of it"),
        ({"image": "x/../../a.png"}, "image", "leads out of it"),
        ({"image": "x\\..\\..\\a.png"}, "image", "leads out of it"),
        ({"image": "/etc/a.png"}, "image", "leads out of it"),
        ({"image": "s3://bucket/../a.png"}, "image", "'..'"),
        ({"image": "a\0.png"}, "image", "must name a file"),
        ({"mask": "a.png"}, "mask", "does not use a mask"),
        ({"steps": "4"}, "steps", "must be a whole number; got '4'"),
        ({"steps": True}, "steps", "must be a whole number; got True"),
        ({"steps": 0}, "steps", "at least 1"),
        ({"steps": 4.5}, "steps", "must be a whole number; got 4.5"),
        ({"steps": 10**30}, "steps", "at most 10000"),
        ({"guidance": 10**400}, "guidance", "must be a number"),
        ({"target": "a cat \ud83d"}, "target", "text that UTF-8 can hold"),
        ({"image": "\ud83d.png"}, "image", "text that UTF-8 can hold"),
        ({"_label": ["\ud83d"]}, "_label", "text that UTF-8 can hold"),
        ({"guidance": "much"}, "guidance", "must be a number"),
        ({"guidance": -1}, "guidance", "at least 0"),
        ({"seed": -1}, "seed", "whole number from 0"),
        ({"native": 1}, "native", "true or false"),
        ({"method": "fpee"}, "method", "did you mean 'fpe'"),
        ({"method": "p2p"}, "method", "source prompt"),
        ({"inversion": "dim"}, "inversion", "did you mean 'ddim'"),
        ({"share": 2}, "share", "from 0 to 1"),
        ({"strength": 0.5}, "strength", "Unknown parameter"),
        ({"tagret": "a"}, "tagret", "did you mean 'target'"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path, change, field, says) -> None:
    path = write_rows(tmp_path / "m.jsonl", [GOOD, {**GOOD, "id": "b", **change}])
    said = refused(path)
    assert f"'{path}': 1 of 2 rows" in said
    assert f"row 2, {field}: " in said
    assert says in said


def test_whole_numbers_may_be_written_as_tables_with_gaps_write_them(tmp_path) -> None:
    rows = [{**GOOD, "steps": 4.0, "seed": 7.0}, {**GOOD, "id": "b"}]
    csv = tmp_path / "m.csv"
    csv.write_text("id,image,target,steps,seed\na,a.png,a cat,4.0,7.0\nb,a.png,a cat,,\n")
    for path in (write_rows(tmp_path / "m.jsonl", rows), csv):
        assert [(job.steps, job.seed) for job in read(path)] == [(4, 7), (None, 0)]
        assert {type(job.seed) for job in read(path)} == {int}
    csv.write_text(f"id,source,target,seed\na,a dog,a cat,{2**53 + 1}\n")
    assert read(csv, seeds="given")[0].seed == 2**53 + 1


@pytest.mark.parametrize("name", ["_seen", "share"])
@pytest.mark.parametrize("value", [date(2020, 1, 1), b"0.5", Decimal("0.5")])
def test_a_column_of_parquet_that_json_cannot_hold(tmp_path, name, value) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({**{k: [v] for k, v in GOOD.items()}, name: [value]}), path)
    assert f"row 1, {name}: must be what JSON can hold" in refused(path)


def test_many_faults_are_told_together(tmp_path) -> None:
    rows = [{**GOOD, "id": f"{i}", "steps": "x" if i % 2 else 3} for i in range(40)]
    rows += [{**GOOD, "id": f"n{i}", "guidance": -i} for i in range(1, 31)]
    said = refused(write_rows(tmp_path / "m.jsonl", rows))
    assert "50 of 70 rows" in said
    assert "row 2, steps: must be a whole number; got 'x' (and 19 more rows)" in said
    assert said.count("\n") == 21
    assert said.endswith("and 11 more rows")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.jsonl", b"", "holds no row"),
        ("m.csv", b"", "holds no row"),
        ("m.csv", b"id,image,target\n", "holds no row"),
        ("m.jsonl", b"\x00\xff\x80PNG\n", "row 1, is not JSON"),
        ("m.jsonl", b'{"id": "a"', "row 1, is not JSON"),
        ("m.jsonl", b'{"id": "a", "image": "a", "target": "b"}\n[1]\n', "row 2, is no JSON object"),
        ("m.jsonl", b"[" * 100_000, "row 1, is "),
        ("m.csv", b"id,image\n\x80\x81,x\n", "not CSV in UTF-8"),
        ("m.csv", b"id,image,target\na,b.png,c\na\n", "row 2, has 1 cells, the head 3"),
        ("m.csv", b"id,id,target\n", "'id' stands twice"),
        ("m.csv", b'id,image,target\n"a,b.png,c\n', "not CSV"),
        ("m.parquet", b"PAR1 no", "Parquet"),
        ("m.txt", b"x", "no manifest by its name"),
    ],
)
def test_junk_is_refused(tmp_path, name, content, says) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    said = refused(path)
    assert str(path) in said
    assert says in said


def test_a_missing_manifest(tmp_path) -> None:
    assert "No such file" in refused(tmp_path / "m.jsonl")


def test_flags_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"Unknown parameter 'shar'.*did you mean 'share'"):
        Defaults(parameters={"shar": 1})
    with pytest.raises(ConfigError, match="way to seed"):
        Defaults(seeds="random")
    assert issubclass(UnknownMethod, ConfigError)


@pytest.mark.parametrize(
    "rows",
    [
        [GOOD, GOOD],
        [{"id": "a-1", "image": "a.png", "target": "x"},
         {"id": "a", "image": "a.png", "targets": ["x", "y"]}],
    ],
)  # fmt: skip
def test_a_name_may_stand_once(tmp_path, rows) -> None:
    path = write_rows(tmp_path / "m.jsonl", rows)
    reader = Reader(str(path), Defaults())
    with pytest.raises(ConfigError, match=r"row 2, id: 'a(-1)?' is the name of row 1 already"):
        Worklist(reader.jobs(), str(path))


def test_a_root_of_its_own(tmp_path) -> None:
    (tmp_path / "lists").mkdir()
    path = write_rows(tmp_path / "lists" / "m.jsonl", [{**GOOD, "image": str(tmp_path / "a.png")}])
    assert "leads out of it" in refused(path)
    reader = Reader(str(path), Defaults(), root=str(tmp_path))
    assert [job.image for job in reader.jobs()] == [str(tmp_path / "a.png")]
    assert reader.root.place(str(tmp_path / "a.png")) == str(tmp_path / "a.png")
    assert reader.root.place("x/../a.png") == str(tmp_path / "a.png")


def test_groups_share_an_image_whatever_lies_between(tmp_path) -> None:
    rows = [{"id": f"{i}-{t}", "image": f"{i}.png", "target": t} for t in "abc" for i in range(3)]
    path = write_rows(tmp_path / "m.jsonl", rows)
    with Worklist(Reader(str(path), Defaults()).jobs(), "m") as work:
        groups = list(work.groups())
        assert [[job.id for job in group.jobs] for group in groups] == [
            [f"{i}-{t}" for t in "abc"] for i in range(3)
        ]
        shards = [group.number for index in range(2) for group in work.groups(index, 2)]
        assert sorted(shards) == [0, 1, 2]
        assert work.size(0, 2) == 6
        assert [len(b) for b in groups[0].batches(2)] == [2, 1]


def test_reordering_a_manifest_changes_no_key(tmp_path) -> None:
    rows = [{"id": f"{i}", "source": "a dog", "target": f"{i}"} for i in range(5)]
    one = read(write_rows(tmp_path / "a.jsonl", rows))
    other = read(write_rows(tmp_path / "b.jsonl", rows[::-1]))
    assert {job.id: job.key for job in one} == {job.id: job.key for job in other}


def many(path: Path, count: int, wrong: int | None = None) -> Path:
    with path.open("w") as file:
        for i in range(count):
            row = {"id": f"r{i}", "image": f"{i // 4}.png", "target": "a cat", "steps": 5}
            file.write(json.dumps({**row, "steps": "five"} if i == wrong else row) + "\n")
    return path


def test_memory_does_not_grow_with_the_manifest(tmp_path) -> None:
    def peak(count: int) -> int:
        path = many(tmp_path / f"{count}.jsonl", count)
        tracemalloc.start()
        with Worklist(Reader(str(path), Defaults()).jobs(), "m") as work:
            assert sum(len(group.jobs) for group in work.groups()) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is imported and cached
    assert peak(4000) < peak(400) + 100_000


@pytest.mark.slow
def test_one_wrong_row_of_a_million(tmp_path) -> None:
    path = many(tmp_path / "m.jsonl", 1_000_000, wrong=987_654)
    said = refused(path)
    assert "1 of 1000000 rows" in said
    assert "row 987655, steps: must be a whole number; got 'five'" in said
