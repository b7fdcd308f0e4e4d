"""`freeprompt edit`: from words on a command line to files."""

import contextlib
import json
import shutil

import pytest
import torch
from PIL import Image
from tests.api.samples import OTHER, SOURCE, TARGET, photo, same, small_sd

import freeprompt as fp
from freeprompt.api import Provenance

GENERATED = ("edit", TARGET, "--source", SOURCE, "--steps", 2)
REAL = ("edit", TARGET, "--image", "photo.png", "--steps", 2)
EDIT = "a-blue-cat-in-the-park.png"


@pytest.fixture
def image(here):
    photo().save(here / "photo.png")
    return here / "photo.png"


def pixels(path):
    with Image.open(path) as picture:
        return picture.convert("RGB")


def strict_json(text):
    def never(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=never)


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_generated_image(freeprompt, here) -> None:
    end = freeprompt(*GENERATED, "--model", "tiny-sd", "--seed", 7)
    assert (end.code, end.err) == (0, "")
    first, second, *rest = end.out.splitlines()
    assert second.strip() == "defaults of tiny-sd in the catalogue: guidance 7.5"
    assert first.startswith(
        "fpe on tiny-sd: 11 attention maps shared (11 sites x 1 steps), 8 sample-forwards, "
    )
    assert first.endswith("s at 128x128")
    names = [EDIT, "source.png", "side-by-side.png", "result.json"]
    assert [line.strip() for line in rest] == [f"out/{name}" for name in names]
    assert files_in(here) == {f"out/{name}" for name in names}
    assert Provenance.from_png(f"out/{EDIT}").seed == 7


def test_a_real_image(freeprompt, here, image) -> None:
    end = freeprompt(*REAL, "--model", "small", "-o", "a/b")
    assert (end.code, end.notes) == (0, [])
    assert f"{2 + 3 + 2} sample-forwards" in end.out
    assert "dB between the image denoised on its own and" in end.out
    assert "(2 more sample-forwards)" in end.out
    expected = {EDIT, "reconstruction.png", "side-by-side.png", "result.json"}
    assert files_in(here / "a" / "b") == expected
    assert pixels(f"a/b/{EDIT}").size == photo().size


def test_no_reconstruction(freeprompt, here, image) -> None:
    end = freeprompt(*REAL, "--model", "small", "--no-reconstruct")
    assert end.code == 0 and "dB" not in end.out
    assert files_in(here / "out") == {EDIT, "side-by-side.png", "result.json"}


def test_several_targets(freeprompt, here) -> None:
    end = freeprompt("edit", TARGET, OTHER, *GENERATED[2:], "--model", "small")
    assert end.code == 0 and {f"out/{EDIT}", "out/a-green-car.png"} < files_in(here)


def test_one_file(freeprompt, here) -> None:
    end = freeprompt(*GENERATED, "--model", "small", "-o", "new/cat.png")
    assert end.code == 0 and files_in(here) == {"new/cat.png", "new/cat.json"}


@pytest.mark.parametrize("kind", [GENERATED, REAL])
def test_json(freeprompt, here, image, kind) -> None:
    end = freeprompt(*kind, "--model", "small", "--json")
    assert end.code == 0
    printed, written = strict_json(end.out), strict_json((here / "out/result.json").read_text())
    files = printed.pop("files")
    assert {str((here / f).relative_to(here)) for f in files} == files_in(here) - {"photo.png"}
    assert files[0] == f"out/{EDIT}" and written.pop("files") == [EDIT]
    assert printed == written
    recipe = Provenance.from_png(here / "out" / EDIT).recipe()
    assert {name: printed[name] for name in recipe} == recipe
    assert ("reconstruction_psnr_db" in printed) == (kind is REAL)


def test_json_knows_no_infinity(freeprompt, here, image, exact) -> None:
    end = freeprompt(*REAL, "--set", "share=1", "--model", exact, "--json")
    assert end.code == 0 and strict_json(end.out)["reconstruction_psnr_db"] == "inf"


def test_every_option_reaches_the_edit(freeprompt, here) -> None:
    words = "--method fpe --steps 3 --guidance 2.5 --seed 9 --width 24 --height 32 --dtype bfloat16"
    end = freeprompt(
        *("edit", OTHER, "--source", SOURCE, "--negative", TARGET, "--model", "small", "--json"),
        *(*words.split(), "--device", "cpu", "--set", "share=0.7", "--set", " sites = self:all "),
        *("--set", "half=both", "--set=replay=false"),
    )
    assert end.code == 0, end.err
    p = strict_json(end.out)
    assert (p["targets"], p["source"], p["negative"], p["model"]) == (
        [OTHER],
        SOURCE,
        TARGET,
        "small",
    )
    assert (p["steps"], p["guidance"], p["seed"], p["size"]) == (3, 2.5, 9, [24, 32])
    assert (p["dtype"], p["device"], p["method"]) == ("bfloat16", "cpu", "fpe")
    wanted = {"share": 0.7, "sites": "self:all", "half": "both", "replay": False}
    assert p["parameters"] == {**wanted, "start": 0.0, "record": "none"}
    assert p["edited_pairs"] == 2 * 7


def test_every_option_of_a_real_image(freeprompt, here, image) -> None:
    end = freeprompt(
        *(*REAL, "--source", SOURCE, "--inversion", "ddim", "--set", "iterations=1", "--native"),
        *("--model", "small", "--json", "-o", "e.png"),
    )
    p = strict_json(end.out)
    assert (p["source"], p["inversion"], p["native"]) == (SOURCE, "ddim", True)
    assert p["inversion_parameters"] == {"iterations": 1} and p["image"] == "photo.png"
    assert list(pixels("e.png").size) == p["size"] == [20, 12]
    assert p["sample_forwards"] == 2 * 2 + 3 + 2


def test_the_same_command_writes_the_same_bytes(freeprompt, here) -> None:
    for name in ("a.png", "b.png"):
        assert freeprompt(*GENERATED, "--model", "small", "-o", name).code == 0
    assert (here / "a.png").read_bytes() == (here / "b.png").read_bytes()


def test_warnings_are_one_line_each_on_stderr(freeprompt, here) -> None:
    end = freeprompt("edit", SOURCE, *GENERATED[2:], "--set", "share=0", "--model", "small")
    assert end.code == 0 and len(end.notes) == 2
    assert "nothing to edit" in end.notes[0] and "empty" in end.notes[1]


def test_a_long_prompt_is_noted_once(freeprompt, here, image) -> None:
    """The source's prompt is read by the inversion, the edit and the reconstruction."""
    end = freeprompt(*REAL, "--source", "a red dog " * 40, "--model", "small")
    assert end.code == 0 and end.err.count("Dropped") == 1


def test_prompts_in_any_script(freeprompt, here) -> None:
    end = freeprompt(
        "edit", "赤い猫", "--source", "ñandú", "--steps", 1, "--model", "small", "--json"
    )
    assert end.code == 0 and "赤い猫" in end.out
    assert strict_json(end.out)["files"][0] == "out/赤い猫.png"


def test_a_prompt_that_begins_with_a_dash(freeprompt, here) -> None:
    end = freeprompt("edit", *GENERATED[2:], "--model", "small", "--", "-5 degrees")
    assert end.code == 0 and "out/5-degrees.png" in files_in(here)


# ------------------------------------------------------------------------------------ made again


@pytest.fixture(scope="module")
def first_edits(tmp_path_factory):
    """What a user made some time ago: a generated edit, and one of `photo.png`."""
    editor = fp.Editor(small_sd(), name="small")
    folder = tmp_path_factory.mktemp("first")
    with contextlib.chdir(folder):
        photo().save("photo.png")
        editor.edit(TARGET, source=SOURCE, steps=2, seed=3, width=24).save("generated/out")
        settings = {"share": 0.5, "iterations": 1, "guidance": 3, "negative": SOURCE}
        editor.edit(TARGET, image="photo.png", steps=2, **settings).save("real/out")
    return folder


@pytest.fixture
def made(here, first_edits):
    """The generated edit in `out`, and its bytes."""
    shutil.copytree(first_edits / "generated", here, dirs_exist_ok=True)
    return (here / "out" / EDIT).read_bytes()


@pytest.fixture
def remade(here, image, first_edits):
    """The edit of a real image in `out`, and its bytes."""
    shutil.copytree(first_edits / "real", here, dirs_exist_ok=True)
    return (here / "out" / EDIT).read_bytes()


def test_a_generated_edit_is_made_again(freeprompt, here, made) -> None:
    end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "again", "--json")
    assert (end.code, end.notes) == (0, []) and strict_json(end.out)["seed"] == 3
    assert (here / "again" / EDIT).read_bytes() == made


def test_a_real_edit_is_made_again(freeprompt, here, remade) -> None:
    end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "again.png")
    assert (end.code, end.notes) == (0, [])
    assert (here / "again.png").read_bytes() == remade


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("method", ["edit-friendly", "sdedit"])
def test_what_a_seed_decides_is_made_again(freeprompt, here, image, real, method) -> None:
    """Noise is drawn for real images too, by inversions and by methods."""
    source = ("--image", "photo.png") if real else ("--source", SOURCE)
    small = ("--model", "small", "--steps", "3", "--seed", "5", "--method", method)
    assert freeprompt("edit", TARGET, *source, *small, "-o", "a.png").code == 0
    end = freeprompt("edit", "--from", "a.png", "-o", "again.png")
    assert (end.code, end.notes) == (0, [])
    assert (here / "again.png").read_bytes() == (here / "a.png").read_bytes()


def test_several_targets_are_made_again(freeprompt, here) -> None:
    freeprompt("edit", TARGET, OTHER, *GENERATED[2:], "--model", "small")
    assert freeprompt("edit", "--from", "out/a-green-car.png", "-o", "again").code == 0
    for name in (EDIT, "a-green-car.png"):
        assert (here / "again" / name).read_bytes() == (here / "out" / name).read_bytes()
    end = freeprompt("edit", "--from", "out/a-green-car.png", "-o", "one.png")
    assert end.code == 2 and "2 targets do not fit" in end.err and not (here / "one.png").exists()


def test_an_image_that_moved_along_is_found(freeprompt, here, image, remade) -> None:
    (here / "else").mkdir()
    image.rename(here / "else" / "photo.png")
    (here / "out" / EDIT).rename(here / "else" / "edit.png")
    end = freeprompt("edit", "--from", "else/edit.png", "-o", "again.png")
    assert end.code == 0 and same(pixels("again.png"), pixels("else/edit.png"))


def test_an_image_that_moved_along_is_found_beside_another_of_its_name(
    freeprompt, here, image, remade
) -> None:
    """`photo.png` names another picture here, but the one beside the edit is the right one."""
    image.rename(here / "out" / "photo.png")
    photo(seed=5).save(here / "photo.png")
    end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "again.png")
    assert end.code == 0 and same(pixels("again.png"), pixels(f"out/{EDIT}"))


def test_an_image_that_was_renamed_can_be_given(freeprompt, here, image, remade) -> None:
    image.rename(here / "renamed.png")
    end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "again.png")
    assert end.code == 2 and "photo.png" in end.err and not (here / "again.png").exists()
    end = freeprompt("edit", "--from", f"out/{EDIT}", "--image", "renamed.png", "-o", "again.png")
    assert end.code == 0 and same(pixels("again.png"), pixels(f"out/{EDIT}"))


def test_an_image_that_changed_is_refused(freeprompt, here, image, remade) -> None:
    photo(seed=5).save(image)
    for more in ((), ("--image", "photo.png")):
        end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "again.png", *more)
        assert end.code == 2 and "is not the image that" in end.err and "contents differ" in end.err
    assert not (here / "again.png").exists()


def test_an_image_from_memory_can_be_given_as_a_file(freeprompt, here, editor_result) -> None:
    end = freeprompt("edit", "--from", "out/edit.png", "-o", "again.png")
    assert end.code == 2 and "image in memory. Give it with --image" in end.err
    photo().save("photo.png")
    end = freeprompt("edit", "--from", "out/edit.png", "-o", "again.png", "--image", "photo.png")
    assert end.code == 0, end.err
    assert same(pixels("again.png"), pixels("out/edit.png"))


@pytest.fixture
def editor_result(here):
    """An edit made in Python of a PIL image."""
    editor = fp.Editor(small_sd(), name="small")
    editor.edit(TARGET, image=photo(), steps=1, share=1).save("out/edit.png")


@pytest.mark.parametrize(
    "more",
    [
        (TARGET,),
        ("--steps", 3),
        ("--seed", 0),
        ("--guidance", 7.5),
        ("--source", SOURCE),
        ("--negative", ""),
        ("--set", "share=0.5"),
        ("--method", "fpe"),
        ("--native",),
        ("--keep", "learnt"),
    ],
)
def test_what_the_picture_brings_cannot_be_given(freeprompt, here, more) -> None:
    photo().save("plain.png")
    end = freeprompt("edit", "--from", "plain.png", *more)
    assert end.code == 2 and "--from brings prompts and all settings with it" in end.err


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "carries no freeprompt provenance"),
        ("{", "cannot be read"),
        ("null", "cannot be read"),
    ],
)
def test_pictures_of_others(freeprompt, here, text, match) -> None:
    from freeprompt.images import save_png

    save_png(photo(), "a.png", {} if text is None else {"freeprompt": text})
    end = freeprompt("edit", "--from", "a.png")
    assert end.code == 2 and match in end.err and files_in(here) == {"a.png"}


def test_noise_that_was_given_cannot_be_made_again(freeprompt, here) -> None:
    generator = torch.Generator().manual_seed(1)
    editor = fp.Editor(small_sd(), name="small")
    editor.edit(TARGET, source=SOURCE, steps=1, share=1, generator=generator).save("a.png")
    end = freeprompt("edit", "--from", "a.png", "-o", "b.png")
    assert end.code == 2 and "only in Python" in end.err


def test_another_model_or_dtype_is_noted(freeprompt, here, made, exact) -> None:
    other = ("--dtype", "bfloat16", "--model", exact)
    end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "again.png", *other)
    assert end.code == 0 and len(end.notes) == 2
    assert end.notes[0].startswith("note: The model_fingerprint differs")
    assert end.notes[1].startswith("note: The dtype differs (float32 then, bfloat16 now)")


# ------------------------------------------------------------------- what is never written over


def test_the_input_is_not_the_output(freeprompt, here, image) -> None:
    before = image.read_bytes()
    (here / "sub").mkdir()
    (here / "link.png").symlink_to(image)
    for out in ("photo.png", "sub/../photo.png", image, "link.png"):
        end = freeprompt(*REAL, "--model", "small", "-o", out)
        assert end.code == 2 and "is the input image itself" in end.err
    assert image.read_bytes() == before and files_in(here) == {"photo.png", "link.png"}


def test_the_mask_is_not_the_output(freeprompt, here, image) -> None:
    mask = Image.new("L", (8, 8), 255)
    mask.save(here / "mask.png")
    before = (here / "mask.png").read_bytes()
    words = ("--method", "fpe-protect", "--mask", "mask.png", "-o", "mask.png")
    end = freeprompt(*REAL, "--model", "no/such", *words)
    assert end.code == 2 and "is the input image itself" in end.err
    assert (here / "mask.png").read_bytes() == before


def test_a_folder_that_may_not_be_written_to_is_found_before_any_work(
    freeprompt, here, monkeypatch
) -> None:
    (here / "shut").mkdir()
    monkeypatch.setattr("os.access", lambda path, *how: str(path) != str(here / "shut"))
    for out in ("shut/out", "shut/a.png"):
        end = freeprompt(*GENERATED, "--model", "no/such", "-o", out)
        assert end.code == 1 and "may not be written to" in end.err
    assert files_in(here) == set()


def test_the_input_is_not_one_of_the_outputs(freeprompt, here, made) -> None:
    """A first edit in `out` is edited on, to a prompt that names its own file."""
    end = freeprompt("edit", TARGET, "--image", f"out/{EDIT}", "--steps", 2, "--model", "small")
    assert end.code == 2 and "input image" in end.err
    assert (here / "out" / EDIT).read_bytes() == made


def test_the_input_of_a_remade_edit_is_not_the_output(freeprompt, here, image, remade) -> None:
    before = image.read_bytes()
    end = freeprompt("edit", "--from", f"out/{EDIT}", "-o", "photo.png")
    assert image.read_bytes() == before
    assert end.code == 2 and "input image" in end.err


def test_the_picture_that_is_made_again_is_not_replaced(freeprompt, here, made) -> None:
    """It lies in `out`, the default; made again with other versions it may come out differently."""
    end = freeprompt("edit", "--from", f"out/{EDIT}", "--dtype", "bfloat16")
    assert (here / "out" / EDIT).read_bytes() == made
    assert end.code == 2 and "-o" in end.err


@pytest.mark.parametrize("name", ["notes.txt", "photo"])
def test_a_file_that_is_no_png_is_no_place(freeprompt, here, name) -> None:
    (here / name).write_text("mine")
    end = freeprompt(*GENERATED, "--model", "small", "-o", name)
    assert end.code == 2 and "is a file that is no .png" in end.err
    assert (here / name).read_text() == "mine"


def test_an_image_of_another_format_is_not_made_a_folder(freeprompt, here) -> None:
    (here / "old.jpg").write_text("mine")
    for name in ("old.jpg", "new.jpg"):
        end = freeprompt(*GENERATED, "--model", "small", "-o", name)
        assert end.code == 2 and ".png" in end.err and files_in(here) == {"old.jpg"}


def test_two_targets_do_not_fit_into_a_file(freeprompt, here) -> None:
    end = freeprompt("edit", TARGET, OTHER, *GENERATED[2:], "--model", "small", "-o", "a.png")
    assert end.code == 2 and "2 targets do not fit" in end.err and files_in(here) == set()
