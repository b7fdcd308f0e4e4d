"""Each error has its page in docs/errors, and the index links to it."""

import inspect
from pathlib import Path

import pytest

from freeprompt import errors

PAGES = Path(__file__).parents[1] / "docs" / "errors"
CLASSES = [
    name
    for name, thing in inspect.getmembers(errors, inspect.isclass)
    if thing.__module__ == errors.__name__
]


@pytest.mark.parametrize("name", CLASSES)
def test_each_error_has_a_page(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## Symptom", "## Cause", "## Fix"]
    assert f"[{name}]({name}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")


def test_no_page_outlives_its_error() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} - {"README"} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_each_error_stands_in_the_drawn_tree(name: str) -> None:
    if issubclass(getattr(errors, name), errors.FreepromptError):
        assert name in (errors.__doc__ or "")
