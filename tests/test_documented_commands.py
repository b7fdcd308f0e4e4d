"""Every command that the documents show exists, with its options, methods and parameters.

Commands are read as the command line reads them, and not run.
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from freeprompt.api.checks import resolve
from freeprompt.cli.app import app
from freeprompt.cli.compare import method_settings
from freeprompt.cli.edit import parse_settings
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|((?:^ {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"^\s*(?:exec )?(freeprompt [^\n]*)$", re.MULTILINE)
INLINE = re.compile(r"`(freeprompt\s[^`]*)`")
FLAG = re.compile(r"`(--[a-z][a-z-]+)[^`]*`")
SHELL = {"$via": "ddim", "$n": "1", "NAME": "fpe"}  # what a page leaves to a loop or the reader
OF_OTHERS = {"--memory", "--ways"}  # options of programs in benchmarks


def shown(text: str) -> Iterator[tuple[str, bool]]:
    """Give each command, and whether it stands in a block: prose may name one without the rest."""
    text = re.sub(r"\\\n\s*", " ", text)
    for block in CODE.finditer(text):
        yield from ((line, True) for line in LINE.findall(block[1] or block[2]))
    yield from ((" ".join(words.split()), False) for words in INLINE.findall(CODE.sub("", text)))


COMMANDS = [
    pytest.param(line, block, id=f"{page.relative_to(ROOT)}: {line[11:60]}")
    for page in PAGES
    for line, block in shown(page.read_text(encoding="utf-8"))
]


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def parsed(line: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the command's name and its options; raises as the command line does."""
    words = [SHELL.get(word, word) for word in shlex.split(line, comments=True)]
    args = [word for word in words[1:] if word not in ("...", "--help")]
    command, context, names = command_line(), None, ("freeprompt",)
    while True:
        context = command.make_context(names[-1], args, parent=context)
        if not hasattr(command, "resolve_command"):
            return names[1:], context.params
        rest = [*context._protected_args, *context.args]
        name, command, args = command.resolve_command(context, rest)
        names = (*names, name)


@pytest.mark.parametrize(("line", "block"), COMMANDS)
def test_a_command_is_there(line: str, block: bool) -> None:
    try:
        names, given = parsed(line)
    except Exception as error:
        lacks = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError")
        if block or not (lacks or "requires an argument" in str(error)):
            raise
        return
    match names[0]:
        case "edit" | "invert" | "attention":
            settings = parse_settings(given["settings"] or [])
            settings = {k: SHELL.get(v, v) for k, v in settings.items()}
            resolve(given["method"] or "fpe", given["inversion"], settings)
        case "compare":
            for method, settings in method_settings(given["settings"] or []).items():
                resolve(method, None, settings)
        case "methods" | "inversions" if given["name"]:
            assert given["name"] in {"methods": METHODS, "inversions": INVERSIONS}[names[0]]


def test_pages_show_commands() -> None:
    assert sum(bool(param.values[1]) for param in COMMANDS) > 60


def flags(command: Any) -> Iterator[str]:
    """Give the options of a command and of those below it."""
    yield from (flag for p in command.params for flag in (*p.opts, *p.secondary_opts))
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        yield from flags(command.get_command(None, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_flag_that_is_named_is_there(page: Path) -> None:
    named = set(FLAG.findall(CODE.sub("", page.read_text(encoding="utf-8"))))
    assert named <= {*flags(command_line()), *OF_OTHERS}
