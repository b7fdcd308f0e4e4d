"""The command line of training."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from freeprompt.cli.train import app
from freeprompt.cli.training import Asked
from freeprompt.errors import ConfigError

runner = CliRunner()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from freeprompt.cli.train import app\n"
        "try: app(['model', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout


def test_every_step_has_a_command() -> None:
    text = runner.invoke(app, ["--help"]).output
    assert all(name in text for name in ("vae", "model", "judge", "export", "sheet", "eval"))


@pytest.mark.parametrize(
    "name", ["vae", "model", "judge", "controlnet", "adapter", "instruct", "lcm"]
)
def test_every_training_is_asked_the_same(name: str) -> None:
    options = [parameter.name for parameter in get_command(app).commands[name].params]
    asked = [field.name for field in fields(Asked)]
    assert options[0] == "run" and options[-len(asked) :] == asked


@pytest.mark.parametrize("minutes", ["nan", "0", "-1"])
def test_minutes_that_end_nothing(tmp_path: Path, minutes: str) -> None:
    words = ["vae", "--run", str(tmp_path / "run"), "--preset", "tiny", "--steps", "1"]
    done = runner.invoke(app, [*words, "--minutes", minutes])
    assert isinstance(done.exception, ConfigError), done.output
    assert f"--minutes is {minutes}, but must be above 0" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_a_number_that_makes_no_sense(tmp_path: Path) -> None:
    arguments = ["--run", str(tmp_path), "--preset", "tiny", "--batch", "0"]
    with pytest.raises(ConfigError, match="--batch is 0, but must be above 0"):
        runner.invoke(app, ["judge", *arguments], catch_exceptions=False)


def test_export_says_how_large_it_is(runs: Path, tmp_path: Path) -> None:
    arguments = ["export", "--run", str(runs / "model"), "--vae", str(runs / "vae" / "vae")]
    arguments += ["--preset", "tiny", "--output", str(tmp_path / "out")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "MB" in result.output
    assert (tmp_path / "out" / "model_index.json").is_file()


def test_a_card_without_a_place_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("no table")
    for card, said in (("card.md", "has no place"), ("none.md", "is no model card")):
        arguments = ["eval", "no-such-model", "--output", tmp_path / "out", "--card"]
        with pytest.raises(ConfigError, match=said):
            runner.invoke(app, [*map(str, arguments), str(tmp_path / card)], catch_exceptions=False)


def test_an_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown preset"):
        runner.invoke(
            app, ["vae", "--run", str(tmp_path), "--preset", "huge"], catch_exceptions=False
        )
