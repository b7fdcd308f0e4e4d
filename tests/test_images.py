"""Pictures in: whatever people have.  Pictures out: whole or not at all."""

import hashlib
import io
import json
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from freeprompt import images
from freeprompt.errors import ImageError, ModelError, SaveError
from freeprompt.images import (
    Picture,
    fit,
    open_image,
    psnr,
    read_png_text,
    resize,
    save_png,
    side_by_side,
    to_images,
    to_tensor,
    write_json,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def noise(width: int = 12, height: int = 8, channels: int = 3) -> np.ndarray:
    """uint8 noise, (height, width, channels)."""
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(picture.image)


# --------------------------------------------------------------------------------- what is read


def test_png_file_is_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "ünï 1.png"
    Image.fromarray(noise()).save(path)
    picture = open_image(path)
    assert (pixels(picture) == noise()).all()
    assert picture.name == str(path) and picture.notes == () and picture.size == (12, 8)
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_image(str(path)).sha256 == open_image(path.read_bytes()).sha256 == picture.sha256


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_common_formats(kind: str) -> None:
    picture = open_image(bytearray(encoded(Image.new("RGB", (9, 7), RED), kind)))
    assert picture.image.mode == "RGB" and picture.size == (9, 7) and picture.name is None
    assert np.abs(pixels(picture).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), WHITE)
    upright.paste(RED, (0, 0, 8, 8))  # red top left
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_image(encoded(stored, kind, exif=exif))
    assert picture.size == (32, 16)
    assert pixels(picture)[2, 2, 1] < 60 < 200 < pixels(picture)[2, 30, 1]
    expected = (f"EXIF orientation {orientation} was applied",) if orientation > 1 else ()
    assert picture.notes == expected


def test_damaged_exif_is_ignored() -> None:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert open_image(data).size == (8, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    image = rgba.convert("LA").convert(mode) if mode == "La" else rgba.convert(mode)
    if mode == "PA":  # Pillow loses the transparency when it converts to this mode
        image.putpixel((1, 0), (0, 0))
    picture = open_image(image)
    assert pixels(picture).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert picture.notes == ("transparent pixels were composited on white",)


def test_half_transparency() -> None:
    picture = open_image(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))
    assert pixels(picture)[0, 0].tolist() == [255, 127, 127]


def test_opaque_alpha_needs_no_note() -> None:
    assert open_image(Image.new("RGBA", (3, 3), RED)).notes == ()


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    picture = open_image(encoded(image, "PNG", transparency=transparency))
    assert pixels(picture).tolist() == [[list(RED), list(WHITE)]]
    assert picture.notes == ("transparent pixels were composited on white",)


@pytest.mark.parametrize(("mode", "colour"), [("L", 0), ("RGB", (0, 0, 255)), ("1", 0)])
def test_colour_key_transparency(mode: str, colour: int | tuple[int, ...]) -> None:
    image = Image.new(mode, (2, 1), "white" if mode != "RGB" else RED)
    image.putpixel((1, 0), colour)
    picture = open_image(encoded(image, "PNG", transparency=colour))
    assert pixels(picture)[0, 1].tolist() == list(WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = open_image(Image.new("RGB", (4, 4), "black").convert(mode))
    assert picture.image.mode == "RGB"
    assert pixels(picture).max() <= 2


def test_cmyk_jpeg() -> None:
    picture = open_image(encoded(Image.new("RGB", (8, 8), RED).convert("CMYK"), "JPEG"))
    assert np.abs(pixels(picture).astype(int) - RED).max() <= 4


def test_16_bit_png_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    picture = open_image(encoded(Image.fromarray(values), "PNG"))
    assert pixels(picture)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert picture.notes == ("16-bit image reduced to 8 bits",)
    assert (pixels(open_image(values)) == pixels(picture)).all()


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([[0, 65535]], np.int32), [0, 255], "16-bit image"),
        (np.array([[0, 200]], np.int32), [0, 200], "values in 0 to 255"),
        (np.array([[-100, 100000]], np.int32), [0, 255], "-100 to 100000 were stretched"),
        (np.array([[0, 1]], np.float32), [0, 255], "values in 0 to 1"),
        (np.array([[0, 200]], np.float32), [0, 200], "values in 0 to 255"),
        (np.array([[-5, -5]], np.float32), [0, 0], "stretched"),
    ],
)
def test_wide_grey_modes(values: np.ndarray, expected: list[int], note: str) -> None:
    picture = open_image(Image.fromarray(values))
    assert pixels(picture)[0, :, 0].tolist() == expected
    assert note in picture.notes[0]


def test_float_image_with_nan() -> None:
    with pytest.raises(ImageError, match="NaN"):
        open_image(Image.fromarray(np.array([[np.nan, 1]], np.float32)))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in (RED, BLUE, WHITE)]
    picture = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels(picture)[0, 0].tolist() == list(RED)
    assert picture.notes == ("first of 3 frames used",)


def swapped_profile() -> bytes:
    """An sRGB profile in which the columns of red and blue are exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = data.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    for text in ("sRGB", "SRGB"):
        data = data.replace(text.encode(), b"swap")
        data = data.replace(text.encode("utf-16-be"), "swap".encode("utf-16-be"))
    return bytes(data)


def test_colour_profile_is_applied() -> None:
    data = encoded(Image.new("RGB", (2, 2), RED), "PNG", icc_profile=swapped_profile())
    picture = open_image(data)
    assert np.abs(pixels(picture).astype(int) - BLUE).max() <= 3
    assert len(picture.notes) == 1 and picture.notes[0].endswith("to sRGB")


def test_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = open_image(encoded(Image.fromarray(noise()), "PNG", icc_profile=srgb))
    assert (pixels(picture) == noise()).all() and picture.notes == ()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_unusable_profile_is_ignored(mode: str) -> None:
    profile = b"not a profile" if mode == "RGB" else swapped_profile()
    image = Image.new(mode, (2, 2))
    image.info["icc_profile"] = profile
    assert open_image(image).notes == ()


# ---------------------------------------------------------------------------- images from memory


def test_pil_image_is_left_alone() -> None:
    image = Image.fromarray(noise())
    picture = open_image(image)
    picture.image.paste(RED, (0, 0, 4, 4))
    assert (np.asarray(image) == noise()).all()


def test_hash_of_an_image_in_memory_depends_on_its_size_and_pixels() -> None:
    wide, tall, other = (
        Image.new("RGB", s, c) for s, c in [((4, 2), RED), ((2, 4), RED), ((4, 2), BLUE)]
    )
    hashes = [open_image(i).sha256 for i in (wide, tall, other, wide)]
    assert len(set(hashes)) == 3 and hashes[0] == hashes[3]
    assert open_image(np.asarray(wide)).sha256 == hashes[0]


@pytest.mark.parametrize(
    "array",
    [
        noise(),
        noise() / 255,
        (noise() / 255).astype(np.float32),
        noise().astype(np.uint16) * 257,
        np.ascontiguousarray(noise()[::-1])[::-1],
        np.asfortranarray(noise()),
    ],
    ids=["uint8", "float64", "float32", "uint16", "reversed", "fortran"],
)
def test_arrays(array: np.ndarray) -> None:
    assert (pixels(open_image(array)) == noise()).all()


def test_grey_bool_and_alpha_arrays() -> None:
    grey = noise(channels=1)
    for array in (grey, grey[:, :, 0]):
        assert (pixels(open_image(array)) == grey).all()
    assert pixels(open_image(grey[:, :, 0] > 9)).max() == 255
    clear = np.zeros((2, 2, 4), np.uint8)
    assert pixels(open_image(clear)).min() == 255


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 1.5), "from 1.5 to 1.5"),
        (np.array([[-0.1, 1.0]]), "from -0.1 to 1"),
        (np.array([[np.nan, 1.0]]), "from nan to nan"),
        (np.full((2, 2), 7, np.int64), "dtype int64 and values from 7 to 7"),
        (np.zeros((3, 8, 8)), r"shape \(3, 8, 8\).*transpose\(1, 2, 0\)"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_unusable_arrays(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)


def test_other_types_are_named() -> None:
    with pytest.raises(ImageError, match=r"from Tensor.*numpy array"):
        open_image(torch.zeros(3, 4, 4))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- what is refused


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data do not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken_files() -> dict[str, tuple[bytes, str]]:
    photo = Image.fromarray(noise(64, 64))
    return {
        "empty.png": (b"", r"is empty \(0 bytes\)"),
        "notes.png": (b"just some text\n" * 20, "not an image.*PNG.*HEIC"),
        "half.jpg": (encoded(photo, "JPEG")[:900], "damaged or cut short.*complete JPEG"),
        "half.png": (encoded(photo, "PNG")[:900], "damaged or cut short.*complete PNG"),
        "half.gif": (encoded(photo, "GIF")[:900], "damaged or cut short|not an image"),
        "head.png": (encoded(photo, "PNG")[:20], "not an image"),
        "bomb.png": (huge_png(60_000, 60_000), "3600 megapixels.*at most 100"),
        "large.png": (huge_png(10_001, 10_000), "100 megapixels.*at most 100"),
        "flat.png": (huge_png(0, 10), "no pixels|not an image"),
        "figure.eps": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "vector",
        ),
    }


@pytest.mark.parametrize("name", broken_files())
def test_broken_files(tmp_path: Path, name: str) -> None:
    content, message = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        open_image(path)
    assert name in str(caught.value)
    with pytest.raises(ImageError, match=message):
        open_image(content)


def test_places_that_hold_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match=r"no file '.*car\.png'"):
        open_image(tmp_path / "car.png")
    with pytest.raises(ImageError, match=r"https://example.org/a.png'.*Download"):
        open_image("https://example.org/a.png")
    with pytest.raises(ImageError, match="null byte"):
        open_image("a\0b.png")
    with pytest.raises(ImageError, match="File name too long"):
        open_image("a" * 5000)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"secret\.png.*Permission denied"):
        open_image(path)


def test_pixels_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeprompt.picture.MAX_PIXELS", 95)
    with pytest.raises(ImageError, match="megapixels"):
        open_image(Image.fromarray(noise()))


def test_no_warning_of_pillow_leaks() -> None:
    photo = huge_png(9_500, 9_500)  # above Pillow's limit for warnings, below ours
    with warnings.catch_warnings(record=True) as seen, pytest.raises(ImageError, match="damaged"):
        warnings.simplefilter("always")
        open_image(photo)
    assert seen == []


# ------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize(
    ("size", "area", "multiple", "expected"),
    [
        ((512, 512), 512**2, 8, (512, 512)),
        ((4000, 4000), 512**2, 64, (512, 512)),
        ((64, 64), 64**2, 8, (64, 64)),
        ((3000, 2000), 512**2, 8, (624, 416)),
        ((2000, 3000), 512**2, 8, (416, 624)),
        ((1920, 1080), 1024**2, 64, (1344, 768)),
    ],
)
def test_fit(size: tuple[int, int], area: int, multiple: int, expected: tuple[int, int]) -> None:
    assert fit(size, area=area, multiple=multiple, shortest=multiple) == expected


def test_fit_keeps_aspect_and_area_for_every_shape() -> None:
    for width in range(180, 2700, 37):
        w, h = fit((width, 700), area=512**2, multiple=8, shortest=256)
        assert w % 8 == h % 8 == 0 and min(w, h) >= 256
        assert abs(math.log(w / h / (width / 700))) < 0.02
        assert abs(math.log(w * h / 512**2)) < 0.12


def test_fit_refuses_extreme_shapes() -> None:
    with pytest.raises(ImageError, match=r"4000 × 100.*40\.0:1.*up to 4\.0:1.*Crop"):
        fit((4000, 100), area=512**2, multiple=8, shortest=256)
    assert fit((1000, 250), area=512**2, multiple=8, shortest=256) == (1024, 256)


# ------------------------------------------------------------------------------ pixels and tensors


def test_resize() -> None:
    image = Image.fromarray(noise())
    assert (np.asarray(resize(image, (12, 8))) == noise()).all()
    stripes = Image.fromarray((np.indices((64, 64))[1] % 2 * 255).astype(np.uint8))
    assert np.abs(np.asarray(resize(stripes, (16, 16))).astype(int) - 128).max() < 40


def test_tensor_round_trip_is_exact() -> None:
    image = Image.fromarray(noise())
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 8, 12) and tensor.dtype == torch.float32
    assert to_tensor(Image.new("RGB", (1, 1), (0, 255, 255))).flatten().tolist() == [-1, 1, 1]
    assert (np.asarray(to_images(tensor)[0]) == noise()).all()


def test_to_images_clamps_and_keeps_the_batch() -> None:
    first, second = to_images(torch.stack([torch.full((3, 2, 4), v) for v in (-9.0, 9.0)]))
    assert first.size == (4, 2) and first.mode == "RGB"
    assert np.asarray(first).max() == 0 and np.asarray(second).min() == 255


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_to_images_refuses_nan(value: float) -> None:
    with pytest.raises(ModelError, match=r"NaN.*dtype float16.*float32"):
        to_images(torch.full((1, 3, 2, 2), value, dtype=torch.float16))


def test_psnr() -> None:
    a = Image.new("RGB", (4, 4), (10, 10, 10))
    assert psnr(a, a) == math.inf
    assert psnr(a, Image.new("RGB", (4, 4), (11, 11, 11))) == pytest.approx(48.1308, abs=1e-4)
    with pytest.raises(ImageError, match="sizes"):
        psnr(a, resize(a, (2, 2)))


# --------------------------------------------------------------------------------------- writing


def test_png_text_round_trip(tmp_path: Path) -> None:
    text = {"prompt": 'a "çat" 🐈\nin 北京', "freeprompt": json.dumps({"seed": 7}), "empty": ""}
    paths = [tmp_path / "new" / "folder" / f"{n}.png" for n in "ab"]
    for path in paths:
        save_png(Image.fromarray(noise()), path, text)
    assert read_png_text(paths[0]) == text
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert (pixels(open_image(paths[0])) == noise()).all()
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["a.png", "b.png"]


def test_png_text_survives_a_broken_character(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (1, 1)), tmp_path / "a.png", {"prompt": "caf\udce9"})
    assert read_png_text(tmp_path / "a.png") == {"prompt": "caf?"}


def test_read_png_text_errors(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(photo)
    for path in (photo, tmp_path / "gone.png", tmp_path):
        with pytest.raises(ImageError, match=path.name):
            read_png_text(path)


def test_write_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, (2.5, None)], "psnr": math.inf})
    assert json.loads((tmp_path / "a.json").read_text()) == {"ü": [1, [2.5, None]], "psnr": "inf"}
    with pytest.raises(SaveError, match=r"b\.json.*not JSON serializable"):
        write_json(tmp_path / "b.json", {"x": object()})


@pytest.mark.parametrize(
    "interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_failed_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise interruption

    monkeypatch.setattr("os.replace", fail)
    expected = SaveError if isinstance(interruption, OSError) else KeyboardInterrupt
    for write in (
        lambda: save_png(Image.new("RGB", (2, 2)), path, {}),
        lambda: write_json(path, 1),
    ):
        with pytest.raises(expected) as caught:
            write()
        if expected is SaveError:
            assert "a.png" in str(caught.value) and "No space left" in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and path.read_bytes() == b"old"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "a.png", tmp_path, tmp_path / ("a" * 300)):
        with pytest.raises(SaveError, match=path.name):
            save_png(Image.new("RGB", (2, 2)), path, {})
    with pytest.raises(SaveError, match=r"a\.png.*cannot write mode F"):
        save_png(Image.new("F", (2, 2)), tmp_path / "a.png", {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ---------------------------------------------------------------------------------- side by side


def test_side_by_side(tmp_path: Path) -> None:
    columns = [
        ("source", Image.new("RGB", (64, 64), RED)),
        ("target", Image.new("L", (128, 64), 0)),
    ]
    row = side_by_side(columns, tmp_path / "row.png")
    assert row.mode == "RGB" and row.width == 256 + 512 + 3 * 8
    assert row.getpixel((8 + 128, 8 + 128)) == RED and row.getpixel((2, 2)) == WHITE
    assert np.asarray(row)[8 + 256 :].min() < 80  # the captions
    assert open_image(tmp_path / "row.png").size == row.size
    assert side_by_side(columns, None, height=64).height < 128


def test_long_captions_are_wrapped() -> None:
    picture = Image.new("RGB", (64, 64))
    one, many = (side_by_side([(c, picture)]) for c in ("a cat", "a cat on a bicycle " * 9))
    endless = side_by_side([("x" * 200, picture)])
    assert one.width == many.width == endless.width
    assert many.height > one.height + 60 and endless.height > one.height + 60
    margin = np.asarray(endless)[:, -8:]
    assert margin.min() == 255


def test_side_by_side_of_nothing() -> None:
    with pytest.raises(ImageError, match="no picture"):
        side_by_side([])


def test_public_names_exist() -> None:
    assert set(images.__all__) <= set(dir(images))
