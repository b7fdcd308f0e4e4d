"""Wrong usage ends with 2, failed work with 1; a paragraph says why, and nothing is written."""

import re

import pytest
from tests.api.samples import SOURCE, TARGET, photo

from freeprompt.cli import main
from freeprompt.errors import ConfigError

SMALL = ("--model", "small")
GENERATED = ("edit", TARGET, "--source", SOURCE, "--steps", 2, *SMALL)
REAL = ("edit", TARGET, "--image", "photo.png", "--steps", 2, *SMALL)


@pytest.fixture(autouse=True)
def files(here):
    photo().save(here / "photo.png")
    (here / "zero.png").write_bytes(b"")
    (here / "half.png").write_bytes((here / "photo.png").read_bytes()[:300])
    (here / "text.png").write_text("not an image")
    (here / "folder").mkdir()
    (here / "file").write_text("mine")


WRONG = [
    # words, what stderr says
    pytest.param(("edit", *SMALL, "--source", SOURCE), "no target prompt", id="no target"),
    pytest.param(("edit", "", "--source", SOURCE, *SMALL), "must say something", id="empty target"),
    pytest.param(("edit", TARGET, *SMALL), "nothing to edit", id="no source"),
    pytest.param((*GENERATED, "--steps", 0), "number of steps", id="no steps"),
    pytest.param((*GENERATED, "--steps", 1001), "too many", id="too many steps"),
    pytest.param((*GENERATED, "--guidance", -1), "guidance", id="negative guidance"),
    pytest.param((*GENERATED, "--guidance", "nan"), "guidance", id="guidance that is no number"),
    pytest.param((*GENERATED, "--seed", -1), "seed must be", id="negative seed"),
    pytest.param((*GENERATED, "--seed", 2**70), "seed must be", id="large seed"),
    pytest.param((*GENERATED, "--width", 17), "multiple of 2", id="width"),
    pytest.param((*REAL, "--width", 16), "real image brings", id="width of a real image"),
    pytest.param((*GENERATED, "--method", "fpee"), "did you mean 'fpe'", id="method"),
    pytest.param((*GENERATED, "--inversion", "x"), "Available: ddim", id="inversion"),
    pytest.param((*GENERATED, "--device", "tpu9"), "Device 'tpu9'", id="device"),
    pytest.param((*GENERATED, "--dtype", "int8"), "dtype must be", id="dtype"),
    pytest.param((*GENERATED, "--set", "share"), "name=value", id="set without value"),
    pytest.param((*GENERATED, "--set", "=1"), "name=value", id="set without name"),
    pytest.param((*GENERATED, *["--set", "share=1"] * 2), "'share' twice", id="set twice"),
    pytest.param((*GENERATED, "--dtype", ""), "dtype must be", id="empty dtype"),
    pytest.param((*GENERATED, "--variant", ""), "variant ''", id="empty variant"),
    pytest.param((*GENERATED, "--config", ""), "config goes with", id="empty config"),
    pytest.param((*GENERATED, "--set", "shar=1"), "did you mean 'share'", id="set of nothing"),
    pytest.param((*GENERATED, "--set", "share=2"), "got 2.0", id="share"),
    pytest.param((*GENERATED, "--set", "share="), "share of FPE", id="empty share"),
    pytest.param((*GENERATED, "--set", "sites=x"), "Cannot read the site", id="sites"),
    pytest.param((*GENERATED, "--model", "tinysd"), "did you mean 'tiny-sd'", id="model"),
    pytest.param((*REAL, "--image", "none.png"), "no file 'none.png'", id="missing image"),
    pytest.param((*REAL, "--image", "zero.png"), "0 bytes", id="zero-byte image"),
    pytest.param((*REAL, "--image", "half.png"), "damaged or cut short", id="cut image"),
    pytest.param((*REAL, "--image", "text.png"), "not an image", id="text as image"),
    pytest.param((*REAL, "--image", "folder"), "is a folder", id="folder as image"),
    pytest.param((*REAL, "--image", ""), "folder", id="empty name of an image"),
    pytest.param(("edit", "--from", "none.png"), "no such file", id="missing picture"),
    pytest.param(("edit", "--from", "folder"), "could not be read", id="folder as picture"),
    pytest.param(("edit", "--from", "text.png"), "complete PNG", id="text as picture"),
    pytest.param(("methods", "fpee"), "did you mean 'fpe'", id="methods"),
    pytest.param(("sites", "tinysd"), "did you mean 'tiny-sd'", id="sites of nothing"),
    pytest.param(("sites", "small", "--select", "x"), "Cannot read", id="select"),
    pytest.param(("sites", "small", "--config", "sd1"), "config goes with", id="sites, config"),
    pytest.param(("sites", "small", "--kind", "x"), "one of self, cross", id="kind"),
    pytest.param(("demo", "--model", "tinysd"), "did you mean", id="demo"),
]
FAILED = [
    pytest.param((*GENERATED, "--set", "sites=self:40-50"), "selects no site", id="no such sites"),
    pytest.param((*GENERATED, "-o", "file/out"), "could not be written", id="file as folder"),
    pytest.param((*GENERATED, "-o", "file/out.png"), "could not be written", id="file as parent"),
    pytest.param(
        ("edit", TARGET, "--source", SOURCE, "--model", "folder"), "no model_index", id="m"
    ),
    pytest.param(
        ("edit", TARGET, "--source", SOURCE, "--model", "file"), "holds no weights", id="f"
    ),
    pytest.param((*GENERATED, "--model", ""), "''", id="empty model"),
    pytest.param(("demo", "--model", ""), "''", id="demo of an empty model"),
    pytest.param(("sites", "nobody/nothing"), "could not be fetched", id="hub"),
]
USAGE = [
    pytest.param(("--bogus",), "No such option", id="option"),
    pytest.param(("edit", "--bogus"), "No such option", id="option of a command"),
    pytest.param(("bogus",), "No such command", id="command"),
    pytest.param(("edit", "a", "--steps", "many"), "--steps", id="no number"),
    pytest.param(("edit", "a", "--source"), "requires an argument", id="no value"),
    pytest.param(("sites",), "Missing argument", id="argument"),
]


def check_refusal(end, code, match, here) -> None:
    assert match in " ".join(end.err.split()), end.err
    assert end.code == code and end.out == ""
    assert "Traceback" not in end.err and "\x1b" not in end.err and "\r" not in end.err
    names = {"photo.png", "zero.png", "half.png", "text.png", "folder", "file"}
    assert {str(path.relative_to(here)) for path in here.rglob("*")} == names
    assert (here / "file").read_text() == "mine"


@pytest.mark.parametrize(("words", "match"), WRONG)
def test_wrong_values(freeprompt, here, words, match) -> None:
    end = freeprompt(*words)
    check_refusal(end, 2, match, here)
    assert re.fullmatch(r"freeprompt: [^\n]+\n", end.err), end.err


@pytest.mark.parametrize(("words", "match"), FAILED)
def test_failed_work(freeprompt, here, words, match) -> None:
    end = freeprompt(*words)
    check_refusal(end, 1, match, here)
    assert re.fullmatch(r"freeprompt: [^\n]+\n", end.err), end.err


@pytest.mark.parametrize(("words", "match"), USAGE)
def test_wrong_usage(freeprompt, here, words, match) -> None:
    check_refusal(freeprompt(*words), 2, match, here)


def test_wrong_usage_is_plain_text(freeprompt) -> None:
    end = freeprompt("edit", "--bogus")
    assert "Error: No such option" in end.err and not set(end.err) & set("╭─│╰")


@pytest.mark.parametrize(
    "name",
    ["targets", "callback", "latents", "image", "native", "steps", "as_json", "self", "no-such"],
)
def test_set_is_for_parameters_only(freeprompt, here, name) -> None:
    end = freeprompt(*GENERATED, "--set", f"{name}=1")
    check_refusal(end, 2, f"Unknown parameter '{name}'", here)


@pytest.mark.parametrize(
    "words",
    [
        (*GENERATED, "-o", "x" * 300),
        (*GENERATED, "-o", "x" * 300 + ".png"),
        (*REAL, "--image", "x" * 300),
        (*GENERATED, "--model", "x" * 300),
        (*GENERATED, "--model", "~nobody-of-that-name/x"),
        ("edit", "--from", "x" * 300),
        ("demo", "--seed", -1, *SMALL),
    ],
    ids=["out", "png", "image", "model", "home", "from", "demo seed"],
)
def test_strange_values_give_no_traceback(freeprompt, here, words) -> None:
    end = freeprompt(*words)
    check_refusal(end, end.code, "freeprompt: ", here)
    assert end.code in (1, 2)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("edit", "--source", SOURCE), "no target prompt"),
        (("edit", TARGET), "nothing to edit"),
        (("edit", TARGET, "--image", "none.png"), "no file 'none.png'"),
        (("edit", TARGET, "--source", SOURCE, "--method", "x"), "Unknown method"),
        (("edit", TARGET, "--source", SOURCE, "--seed", -1), "seed"),
        (("edit", TARGET, "--source", SOURCE, "--set", "shar=1"), "did you mean 'share'"),
        (("edit", TARGET, "--source", SOURCE, "-o", "file/out"), "could not be written"),
        (("invert", "photo.png", "-o", "file/x.safetensors"), "could not be written"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(freeprompt, here, words, match) -> None:
    """sd-1.5 is 4 GB from the Hub, which no one should fetch to be told of a missing prompt."""
    end = freeprompt(*words, "--model", "sd-1.5")
    assert match in " ".join(end.err.split())


def test_debug_shows_the_traceback(here) -> None:
    for words in (["--debug", "methods", "x"], ["methods", "x", "--debug"]):
        with pytest.raises(ConfigError, match="Unknown method 'x'"):
            main(words)


def test_after_an_error_the_command_works(freeprompt, here) -> None:
    assert freeprompt(*GENERATED, "--set", "sites=self:40-50").code == 1
    assert freeprompt(*GENERATED, "-o", "folder").code == 0
