import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from freeprompt.cli.world import app
from freeprompt.errors import ConfigError, SaveError
from freeprompt.world import Scene


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception is not None:
        raise result.exception


def test_render_writes_pictures_and_truth(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    run("render", "a red car on the street", "--size", "64", "-o", str(out), "--masks")
    (row,) = json.loads((out / "truth.json").read_text())
    rendered = Scene.from_dict(row["scene"]).render(64)
    assert row["caption"] == "a red car on the street"
    with Image.open(out / row["image"]) as picture, Image.open(out / row["mask"]) as mask:
        assert picture.tobytes() == rendered.image.tobytes()
        assert mask.size == (64, 64)
    assert sorted(p.name for p in out.iterdir()) == ["0000.mask.png", "0000.png", "truth.json"]


def test_render_random(tmp_path: Path) -> None:
    run("render", "--random", "3", "--size", "32", "-o", str(tmp_path))
    assert len(json.loads((tmp_path / "truth.json").read_text())) == 3
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_sheet(tmp_path: Path) -> None:
    run("sheet", "--count", "5", "--size", "32", "-o", str(tmp_path / "a" / "sheet.png"))
    with Image.open(tmp_path / "a" / "sheet.png") as picture:
        assert picture.width > 5 * 32


def test_errors_are_freeprompts_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either a caption or a number"):
        run("render", "-o", str(tmp_path))
    with pytest.raises(ConfigError, match=r"written as \.png; got '.*sheet\.jpg'"):
        run("sheet", "-o", str(tmp_path / "sheet.jpg"))
    with pytest.raises(ConfigError, match="--count must be at least 1; got 0"):
        run("sheet", "--count", "0", "-o", str(tmp_path / "sheet.png"))
    with pytest.raises(ConfigError, match="Unknown subject"):
        run("render", "a unicorn", "-o", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="Could not write"):
        run("render", "a car", "-o", str(tmp_path / "file"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
