"""The command line of training."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from freeprompt.cli.train import app
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


def test_export_says_how_large_it_is(runs: Path, tmp_path: Path) -> None:
    arguments = ["export", "--run", str(runs / "model"), "--vae", str(runs / "vae" / "vae")]
    arguments += ["--preset", "tiny", "--output", str(tmp_path / "out")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "MB" in result.output
    assert (tmp_path / "out" / "model_index.json").is_file()


def test_an_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown preset"):
        runner.invoke(
            app, ["vae", "--run", str(tmp_path), "--preset", "huge"], catch_exceptions=False
        )
