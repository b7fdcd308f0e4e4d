"""The other commands, help, and what a pipe and a terminal get to see."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from tests.api.samples import SOURCE, TARGET

import freeprompt as package
from freeprompt.api import Provenance
from freeprompt.cli import show
from freeprompt.cli.app import app
from freeprompt.core import Progress

CONTROL = set(map(chr, range(32))) - {"\n"} | {"\x7f"}


def all_commands():
    def walk(command, words):
        yield words
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))

    return list(walk(typer.main.get_command(app), ()))


@pytest.mark.parametrize("words", [w for w in all_commands() if len(w) < 2], ids=" ".join)
def test_help(freeprompt, words) -> None:
    end = freeprompt(*words, "-h" if len(words) == 1 else "--help")
    assert (end.code, end.err) == (0, "")
    assert "Usage: " + " ".join(["freeprompt", *words]) in " ".join(end.out.split())
    assert "\x1b" not in end.out


def test_the_commands_of_the_contract_are_there() -> None:
    names = {words[0] for words in all_commands() if words}
    assert {"edit", "demo", "methods", "models", "sites", "world", "train"} <= names


def test_help_names_every_option_of_the_contract(freeprompt, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = freeprompt("edit", "--help").out
    options = "--source --image --model --method --inversion --steps --guidance --set --seed --out"
    for option in [*options.split(), "--json", "--from", "--native", "--negative", "--device"]:
        assert option in text
    assert "--reconstruct" in text and "--no-reconstruct" in text


def test_no_arguments_show_the_help(freeprompt) -> None:
    end = freeprompt()
    assert "Usage: freeprompt" in end.out + end.err


def test_version(freeprompt) -> None:
    end = freeprompt("--version")
    assert (end.code, end.out, end.err) == (0, f"{package.__version__}\n", "")


# -------------------------------------------------------------------------------------- listings


def test_methods(freeprompt) -> None:
    end = freeprompt("methods")
    assert end.code == 0 and "fpe" in end.out and "self-attention maps" in end.out
    assert json.loads(freeprompt("methods", "--json").out)["fpe"].startswith("Edit with nothing")


def test_one_method(freeprompt) -> None:
    end = freeprompt("methods", "fpe")
    assert end.code == 0 and "arXiv:2403.03431" in end.out
    for word in ("share", "0.8", "from 0 to 1", "sites", "self:below-top", "half", "record"):
        assert word in end.out
    data = json.loads(freeprompt("methods", "fpe", "--json").out)
    assert data["method"] == "fpe"
    assert {name: p["default"] for name, p in data["parameters"].items()} == (
        package.methods.FPE().to_dict()
    )
    assert all(p["help"] and p["source"] for p in data["parameters"].values())


def test_inversions(freeprompt) -> None:
    end = freeprompt("inversions")
    assert end.code == 0 and "null-text" in end.out and "negative-prompt" in end.out
    one = freeprompt("inversions", "null-text")
    assert "arXiv:2211.09794" in one.out and "inner_steps" in one.out and "10" in one.out
    data = json.loads(freeprompt("inversions", "edit-friendly", "--json").out)
    assert data["inversion"] == "edit-friendly" and data["parameters"]["skip"]["default"] == 0.36
    wrong = freeprompt("inversions", "null-txt")
    assert wrong.code == 2 and "did you mean 'null-text'" in wrong.err


def test_a_method_says_which_inversion_it_needs(freeprompt) -> None:
    assert "edit-friendly inversion" in freeprompt("methods", "ledits").out
    assert "inversion:" not in freeprompt("methods", "fpe").out


def test_models(freeprompt) -> None:
    end = freeprompt("models")
    assert end.code == 0 and "tiny-sd" in end.out and "diffusers layout" in end.out
    data = json.loads(freeprompt("models", "--json").out)
    assert data["tiny-sd"]["available_offline"] and not data["sd-1.5"]["available_offline"]
    assert data["sd-1.5"]["size"] == 512 and "RAIL" in data["sd-1.5"]["licence"]


def test_sites(freeprompt) -> None:
    end = freeprompt("sites", "tiny-sd")
    lines = [line.split() for line in end.out.splitlines() if ".self" in line]
    assert end.code == 0 and len(lines) == 16
    assert "11 selected by 'self:below-top', marked *." in end.out
    marked = [line[1:] for line in lines if line[0] == "*"]
    assert marked[0] == ["down.1.0.self", "3", "14", "8x8"]
    assert [line[1] for line in marked] == [str(i) for i in range(3, 14)]
    assert [line[2] for line in marked] == [str(i) for i in range(14, 3, -1)]


def test_sites_as_json(freeprompt) -> None:
    def chosen(select):
        data = json.loads(freeprompt("sites", "tiny-sd", "--json", "--select", select).out)
        assert len(data) == 16
        return [site["name"] for site in data if site["selected"]]

    paper = chosen("self:paper")
    assert paper == chosen("self:3-13") == chosen("self:below-top") and len(paper) == 11
    assert chosen("none") == []


@pytest.mark.parametrize(("kind", "count"), [("self", 7), ("cross", 7), ("all", 22)])
def test_kinds_of_sites_of_a_folder(freeprompt, folder, kind, count) -> None:
    end = freeprompt("sites", folder, "--kind", kind, "--json")
    data = json.loads(end.out)
    assert end.code == 0 and len(data) == count
    first = data[0] if kind != "all" else next(s for s in data if s["kind"] == "self")
    assert first["grid"] == [8, 8] and first["scale"] == 1 and first["layer"] == 1


def test_tables_are_whole_in_a_pipe(freeprompt, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for words in (("methods", "fpe"), ("inversions", "ddim"), ("models",), ("sites", "tiny-sd")):
        assert "…" not in freeprompt(*words).out


# ------------------------------------------------------------------------------------------ demo


def test_demo(freeprompt, here) -> None:
    end = freeprompt("demo", "--model", "thin", "-o", "shown")
    assert (end.code, end.notes) == (0, [])
    folder = here / "shown"
    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 600 and picture.height > 500
    assert f"{50 + 40 * 5 + 10 * 4} sample-forwards" in end.out
    assert "200 sample-forwards" in end.out and "dB" in end.out and "shown/demo.png" in end.out
    with Image.open(folder / "car.png") as picture:
        assert picture.size == (256, 256)
    real = Provenance.from_png(folder / "real" / "a-blue-car-on-the-street.png")
    assert real.image == "shown/car.png" and len(real.targets) == 2
    made = Provenance.from_png(folder / "generated" / "a-rabbit-standing-in-the-park.png")
    assert made.seed == 7 and made.source == "a dog standing in the park"
    assert (folder / "real" / "reconstruction.png").exists()


# ------------------------------------------------------------------------ in a pipe, on a terminal


@pytest.fixture(scope="module")
def piped(tmp_path_factory, folder):
    """One real process, its output into pipes, with a terminal's environment."""
    place = tmp_path_factory.mktemp("piped")
    words = ["edit", TARGET, "--source", SOURCE, "--steps", "2", "--model", folder]
    env = {k: v for k, v in os.environ.items() if "VERBOSITY" not in k and "PROGRESS" not in k}
    done = subprocess.run(
        [sys.executable, "-m", "freeprompt", *words],
        cwd=place,
        env={**env, "TERM": "xterm-256color"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return place, done


def test_a_pipe_gets_lines_and_nothing_else(piped) -> None:
    place, done = piped
    assert done.returncode == 0
    assert done.stderr == ""
    assert not set(done.stdout) & CONTROL and len(done.stdout.splitlines()) == 6
    assert (place / "out" / "result.json").exists()


def test_the_process_draws_what_this_one_draws(piped, freeprompt, here, folder) -> None:
    place, _ = piped
    words = ("edit", TARGET, "--source", SOURCE, "--steps", 2, "--model", folder)
    assert freeprompt(*words).code == 0
    name = Path("out") / "a-blue-cat-in-the-park.png"
    assert (place / name).read_bytes() == (here / name).read_bytes()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_a_phase(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal)
    with show.progress() as callback:
        for phase in ("invert", "edit", "reconstruct"):
            for step in range(3):
                callback(Progress(phase, step, 3, {}))
    text = terminal.getvalue()
    assert all(label in text for label in ("inverting", "editing", "checking the inversion"))
    assert "100%" in text


@pytest.mark.parametrize(("wanted", "stream"), [(False, Terminal()), (True, io.StringIO())])
def test_no_bar_where_none_is_wanted(monkeypatch, wanted, stream) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with show.progress(wanted) as callback:
        callback(Progress("edit", 0, 1, {}))
    assert stream.getvalue() == ""
