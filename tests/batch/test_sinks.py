"""WebDataset tars, addresses, and names of files."""

import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.batch.samples import BAD, EDITS, asked, pictures, results, strays

from freeprompt.batch import Stopped, run
from freeprompt.batch.names import file_name
from freeprompt.batch.places import Root, is_address
from freeprompt.batch.sinks import Folders, Tars, verified
from freeprompt.errors import ConfigError, ImageError


def members(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def samples(out: Path) -> dict[str, bytes]:
    """Return the picture of every sample of all tars, read by the tar module."""
    found: dict[str, bytes] = {}
    for path in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                content = file.read()
                if ending == "png":
                    assert key not in found
                    found[key] = content
                else:
                    assert file_name(json.loads(content)["id"]) == key
    return found


def test_tars_hold_the_same_pictures(tmp_path, whole, manifest, model) -> None:
    out = tmp_path / "out"

    def report(advance):
        if advance.done == 6 and not (out / "results.jsonl").exists():
            raise Stopped(15)

    with pytest.raises(Stopped):
        run(asked(manifest, model, out, format="wds"), report)
    tar = next((out / "shards").glob("*.tar"))
    assert len(members(tar)) == 12  # a stopped run leaves a proper tar
    with tar.open("r+b") as file:  # what a killed one leaves
        file.seek(-1024, io.SEEK_END)
        file.write(b"half a sample" * 200)
    run(asked(manifest, model, out, format="wds"))
    wanted = {Path(name).stem: content for name, content in pictures(whole).items()}
    assert samples(out) == wanted
    assert len(wanted) == EDITS - BAD
    assert strays(out) == []
    where = {"file", "offset"}
    assert [{n: v for n, v in row.items() if n not in where} for row in results(out)] == [
        {n: v for n, v in row.items() if n not in where} for row in results(whole)
    ]
    row = next(row for row in results(out) if not row["error"])
    assert verified(out, row, "hash")
    assert not verified(out, {**row, "offset": row["offset"] + 1}, "hash")
    assert not verified(out, {**row, "offset": 10**9}, "size")


def test_tars_of_shards_that_nobody_goes_on_with_end_properly(
    tmp_path, whole, manifest, model
) -> None:
    out = tmp_path / "out"

    def report(advance):
        if advance.done == 6:
            raise Stopped(15)

    with pytest.raises(Stopped):
        run(asked(manifest, model, out, format="wds"), report)
    tar = next((out / "shards").glob("*.tar"))
    content = tar.read_bytes()
    tar.write_bytes(content[:-1024] + content[:600])  # a killed one leaves half a sample
    for index in range(2):
        run(asked(manifest, model, out, format="wds", index=index, of=2))
    assert samples(out) == {Path(name).stem: png for name, png in pictures(whole).items()}


def test_a_shard_that_ends_takes_no_room_from_the_others(tmp_path, monkeypatch) -> None:
    """Shards share the folder of drafts; who ends removes it if it is empty."""
    first, second = Folders(tmp_path, "a"), Folders(tmp_path, "b")
    write, ended = Path.write_bytes, []

    def write_bytes(path, content):
        if not ended:
            ended.append(second.close())
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert verified(tmp_path, first.put({"id": "x"}, b"picture"), "hash")
    first.close()
    assert not (tmp_path / ".drafts").exists()


def test_a_full_tar_is_followed_by_another(tmp_path) -> None:
    tars = Tars(tmp_path, "part", {}, limit=3000)
    where = [tars.put({"id": f"{i}"}, bytes([i]) * 700) for i in range(5)]
    tars.close()
    names = sorted({place["file"] for place in where})
    assert names == [f"shards/part-{i:06}.tar" for i in range(3)]
    ends = {place["file"]: place["end"] for place in where[:-1]}  # the last was not recorded
    again = Tars(tmp_path, "part", ends, limit=3000)
    place = again.put({"id": "4"}, bytes([4]) * 700)
    again.close()
    assert place == where[4]
    assert all(verified(tmp_path, place, "hash") for place in where)
    assert [one for name in names for one in members(tmp_path / name)] == [
        f"{i}.{ending}" for i in range(5) for ending in ("png", "json")
    ]
    assert len(samples(tmp_path)) == 5


@pytest.mark.parametrize("left", [None, 0, 1000])
def test_what_is_made_again_after_a_damaged_tar_can_be_read(tmp_path, left) -> None:
    """Bytes beyond a hole are lost on readers, which take zeros for the end."""
    tars = Tars(tmp_path, "part", {})
    where = [tars.put({"id": f"{i}"}, bytes([i]) * 700) for i in range(2)]
    tars.close()
    tar = tmp_path / where[0]["file"]
    tar.unlink() if left is None else os.truncate(tar, left)
    again = Tars(tmp_path, "part", {place["file"]: place["end"] for place in where})
    place = again.put({"id": "0"}, bytes([0]) * 700)
    again.close()
    assert verified(tmp_path, place, "hash")
    assert members(tmp_path / place["file"]) == ["0.png", "0.json"]


def test_a_long_name_in_a_tar(tmp_path) -> None:
    tars = Tars(tmp_path, "part", {})
    name = "é" * 30  # 180 bytes when quoted
    place = tars.put({"id": name}, b"x")
    tars.close()
    assert verified(tmp_path, place, "hash")
    assert samples(tmp_path) == {file_name(name): b"x"}


@pytest.mark.parametrize("name", ["../x", "a/b", "a.b.c", "..", "C:\\x", "a b\n", "~", "%2E", "é"])
def test_no_name_leads_anywhere(name) -> None:
    written = file_name(name)
    assert set(written) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_%")
    assert file_name(written) != written or name == written


def test_pictures_and_manifests_behind_an_address(tmp_path, whole, manifest, model) -> None:
    fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec")
    store = fsspec.filesystem("memory")
    for path in manifest.parent.iterdir():
        if path.name in {"manifest.jsonl", *(f"{i}.png" for i in range(4))}:
            store.pipe(f"/batch/{path.name}", path.read_bytes())
    out = tmp_path / "out"
    run(asked("memory://batch/manifest.jsonl", model, out))
    assert pictures(out) == pictures(whole)
    gone = next(row for row in results(out) if row["error"])
    assert gone["error"].startswith("ImageError: 'memory://batch/gone.png' could not be read")


def test_roots(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", ".", str(tmp_path), f"{tmp_path}/"):
        assert Root.at(name).place("a.png") == f"{tmp_path}/a.png"
    with pytest.raises(ConfigError, match="leads out"):
        Root.at("").place("/etc/a.png")
    assert Root.at("/").place("/etc/a.png").endswith("/etc/a.png")
    for name in ("s3://bucket", "s3://bucket/"):
        assert Root.at(name).place("a.png") == "s3://bucket/a.png"
    assert Root.at("memory://").place("a.png") == "memory://a.png"


def test_addresses(tmp_path) -> None:
    assert is_address("s3://bucket/a.png")
    assert not is_address("a.png")
    assert not is_address("C:\\a.png")
    assert Root.of("s3://bucket/lists/m.csv").place("a.png") == "s3://bucket/lists/a.png"
    assert Root.of("s3://bucket/m.csv").place("gs://other/a.png") == "gs://other/a.png"
    with pytest.raises(ConfigError, match="leads out"):
        Root.of("s3://bucket/lists/m.csv").place("../a.png")
    with pytest.raises(ImageError, match="could not be read"):
        Root.of("unheard://x/m.csv").read("a.png")
    assert replace(Root("a"), base="b") == Root("b")
