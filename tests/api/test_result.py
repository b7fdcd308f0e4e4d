"""Saving: everything that is wanted, in files that are whole or not there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.api.samples import OTHER, SOURCE, TARGET, photo, same, small_sd, told

import freeprompt as fp
from freeprompt.api import Provenance
from freeprompt.errors import ConfigError, SaveError


@pytest.fixture(scope="module")
def made(editor):
    return editor.edit([TARGET, OTHER], source=SOURCE, steps=2, seed=7)


@pytest.fixture(scope="module")
def one(editor):
    return editor.edit(TARGET, source=SOURCE, steps=2, seed=7)


@pytest.fixture
def real(editor):
    return editor.edit(TARGET, image=photo(), steps=2)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def sidecar(path: Path):
    def never(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=never)


def test_a_folder_with_everything(made, tmp_path) -> None:
    files = made.save(str(tmp_path / "new" / "out"))
    folder = tmp_path / "new" / "out"
    expected = ["a-blue-cat-in-the-park.png", "a-green-car.png", "source.png"]
    assert [f.name for f in files] == [*expected, "side-by-side.png", "result.json"]
    assert names(folder) == {f.name for f in files} and all(f.parent == folder for f in files)
    for name, picture in zip(expected, [*made.images, made.source], strict=True):
        with Image.open(folder / name) as saved:
            assert same(saved.convert("RGB"), picture)
    data = sidecar(folder / "result.json")
    assert data.pop("files") == expected[:2]
    assert data == made.provenance.to_dict() == made.to_dict()


def test_one_file_with_its_sidecar(one, tmp_path) -> None:
    files = one.save(tmp_path / "sub" / "Cat.PNG")
    assert files == [tmp_path / "sub" / "Cat.PNG", tmp_path / "sub" / "Cat.json"]
    assert names(tmp_path / "sub") == {"Cat.PNG", "Cat.json"}
    assert sidecar(files[1]) == one.provenance.to_dict()
    with Image.open(files[0]) as saved:
        assert same(saved.convert("RGB"), one.images[0])


def test_several_targets_do_not_fit_into_one_file(made, tmp_path) -> None:
    with pytest.raises(ConfigError, match="2 targets do not fit"):
        made.save(tmp_path / "out.png")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["out.jpg", "out.WEBP"])
def test_a_file_of_another_kind_does_not_become_a_folder(one, tmp_path, name) -> None:
    with pytest.raises(ConfigError, match="png"):
        one.save(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_may_have_a_dot(one, tmp_path) -> None:
    one.save(tmp_path / "run.2024-05")
    assert "result.json" in names(tmp_path / "run.2024-05")


def test_the_reconstruction_is_saved_if_it_was_computed(real, tmp_path) -> None:
    real.save(tmp_path / "without")
    assert names(tmp_path / "without") == {
        "a-blue-cat-in-the-park.png",
        "side-by-side.png",
        "result.json",
    }
    assert "reconstruction_psnr_db" not in sidecar(tmp_path / "without" / "result.json")
    value = real.reconstruction_psnr
    real.save(tmp_path / "with")
    assert names(tmp_path / "with") - names(tmp_path / "without") == {"reconstruction.png"}
    assert sidecar(tmp_path / "with" / "result.json")["reconstruction_psnr_db"] == value
    with Image.open(tmp_path / "with" / "reconstruction.png") as saved:
        assert same(saved.convert("RGB"), real.source)


def test_an_exact_inversion_is_still_json(tmp_path) -> None:
    pipe = small_sd()
    pipe.unet.conv_out.weight.data.zero_()
    pipe.unet.conv_out.bias.data.zero_()
    result = fp.Editor(pipe).edit(TARGET, image=photo(), steps=1, share=1)
    assert result.reconstruction_psnr == float("inf")
    result.save(tmp_path)
    assert sidecar(tmp_path / "result.json")["reconstruction_psnr_db"] == "inf"


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["a", "A!", "a-2", "a"], ["a", "a-2", "a-2-2", "a-3"]),
        (["source", "side by side", "reconstruction"], ["source-2", "side-by-side-2", None]),
        (["../../etc/passwd", "/abs", "..", "C:\\x"], ["etc-passwd", "abs", "edit", "c-x"]),
        (["🐈", "🐕", "???"], ["edit", "edit-2", "edit-3"]),
        (["ein größeres Tier", "赤い猫", "ÉTÉ"], ["ein-größeres-tier", "赤い猫", "été"]),
        (["x" * 300, "x" * 299], ["x" * 60, "x" * 60 + "-2"]),
        (["猫" * 300, "a\nb\0c"], ["猫" * 60, "a-b-c"]),
    ],
)
def test_names_of_files(editor, tmp_path, prompts, expected) -> None:
    with told():
        result = editor.edit(prompts, source=SOURCE, steps=1, share=1)
    files = result.save(tmp_path / "out")
    stems = [f.stem for f in files[: len(prompts)]]
    for stem, wanted in zip(stems, expected, strict=True):
        assert wanted is None or stem == wanted
    assert len({f.name.lower() for f in files}) == len(files), "no file hides another"
    assert names(tmp_path) == {f"out/{f.name}" for f in files}, "and none is outside the folder"
    assert Provenance.from_png(files[0]).targets == tuple(prompts)
    assert sidecar(files[-1])["targets"] == prompts


def test_saving_again_replaces(one, tmp_path) -> None:
    first = one.save(tmp_path)
    files = [f.read_bytes() for f in first]
    assert one.save(tmp_path) == first and [f.read_bytes() for f in first] == files


def test_the_input_image_is_never_replaced(editor, tmp_path) -> None:
    """Edit a picture in the folder that the results go to, towards a prompt that names it."""
    image = tmp_path / "a-green-car.png"
    photo().save(image)
    before = image.read_bytes()
    result = editor.edit(OTHER, image=image, steps=1, share=1)
    for place in (tmp_path, image):
        with pytest.raises(ConfigError, match="input"):
            result.save(place)
        assert image.read_bytes() == before


# -------------------------------------------------------------------------------- when it fails


def test_a_file_in_the_place_of_the_folder(one, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises((ConfigError, SaveError)):
        one.save(tmp_path / "file")
    for path in ("file/out", "file/out.png", "file/a/b/c.png"):
        with pytest.raises(SaveError, match="could not be written"):
            one.save(tmp_path / path)
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(one, tmp_path) -> None:
    (tmp_path / "out.png").mkdir()
    with pytest.raises(SaveError):
        one.save(tmp_path / "out.png")
    assert names(tmp_path) == set()


def test_a_folder_in_the_place_of_the_sidecar(one, tmp_path) -> None:
    """Both files or neither: a picture without its sidecar is half a result."""
    (tmp_path / "out.json").mkdir()
    with pytest.raises(SaveError):
        one.save(tmp_path / "out.png")
    assert not [n for n in names(tmp_path) if n.endswith(".tmp")]


@pytest.mark.parametrize("path", ["x" * 300, "x" * 300 + ".png", "a\0b", "a\0b.png"])
def test_names_that_no_disk_takes(one, tmp_path, path) -> None:
    with pytest.raises(SaveError):
        one.save(tmp_path / path)
    assert names(tmp_path) == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(one, tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SaveError, match="Permission denied"):
        one.save(tmp_path / "out")
    tmp_path.chmod(0o700)


# --------------------------------------------------------------------------------- side by side


def test_side_by_side(made, real) -> None:
    for result, columns in ((made, 3), (real, 2)):
        picture = result.side_by_side()
        assert picture.mode == "RGB"
        assert 256 * columns <= picture.width <= 600 * columns and 256 < picture.height < 500
        assert np.asarray(picture).std() > 10
    narrow = real.side_by_side().width
    assert real.reconstruction_psnr is not None
    assert real.side_by_side().width > narrow, "the reconstruction has a column once it is known"


def test_side_by_side_of_a_long_prompt(editor) -> None:
    with told():
        result = editor.edit("wide " * 100, source=SOURCE, steps=1, share=1)
    picture = result.side_by_side()
    assert picture.width < 1000 and picture.height < 2000


# ----------------------------------------------------------------------------------- provenance


def test_the_picture_carries_its_recipe(one, tmp_path) -> None:
    one.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert set(saved.text) == {"freeprompt"}
        carried = json.loads(saved.text["freeprompt"])
    assert carried == one.provenance.recipe()
    assert "seconds" not in carried and "peak_memory_bytes" not in carried
    assert carried["sample_forwards"] == 8 and carried["seed"] == 7


@pytest.mark.parametrize("kind", ["made", "real"])
def test_provenance_round_trip(kind, request, tmp_path) -> None:
    result = request.getfixturevalue(kind)
    path = result.save(tmp_path)[0]
    read = Provenance.from_png(path)
    assert read.recipe() == result.provenance.recipe()
    assert read.targets == result.targets and read.size == result.provenance.size
    assert (read.seconds, read.peak_memory_bytes) == (0.0, 0)
    assert Provenance.from_png(str(path)) == read


def test_provenance_is_json(made, real) -> None:
    for result in (made, real):
        data = result.provenance.to_dict()
        assert json.loads(json.dumps(data)) == data
        measured = {"seconds", "peak_memory_bytes", "defaults"}  # what is filled in stands there
        assert set(data) - set(result.provenance.recipe()) == measured


def png_with(path: Path, text: str | None) -> Path:
    from freeprompt.images import save_png

    save_png(photo(), path, {} if text is None else {"freeprompt": text})
    return path


def test_a_foreign_png(tmp_path) -> None:
    with pytest.raises(ConfigError, match="carries no freeprompt provenance"):
        Provenance.from_png(png_with(tmp_path / "a.png", None))


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", '"text"', "{}", '{"model": "x"}', '{"colour": "x"}']
)
def test_damaged_provenance(tmp_path, text) -> None:
    with pytest.raises(ConfigError, match=r"provenance in .* cannot be read"):
        Provenance.from_png(png_with(tmp_path / "a.png", text))


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"size": [16]},
        {"targets": "a cat"},
        {"targets": [1]},
        {"parameters": None},
        {"model": 5},
    ],
)
def test_provenance_of_the_wrong_types(one, tmp_path, change) -> None:
    text = json.dumps({**one.provenance.recipe(), **change})
    with pytest.raises(ConfigError, match=next(iter(change))):
        Provenance.from_png(png_with(tmp_path / "a.png", text))
