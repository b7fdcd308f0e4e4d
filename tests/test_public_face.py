"""What users see first: a light import, a complete `__all__`, types, and optional extras."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import freeprompt

ROOT = Path(freeprompt.__file__).parent

HEAVY = {"torch", "diffusers", "transformers", "PIL", "matplotlib", "gradio", "peft"}

LOADED = (
    "\nimport json, sys\nprint('\\n' + json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
)

HELP = """
import runpy, sys
sys.argv = ["freeprompt", "--help"]
try:
    runpy.run_module("freeprompt", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code in (0, None), end.code
"""

# A finder that hides packages as if they were not installed, also from `find_spec`.
WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        hidden = name.split(".")[0] in HIDDEN
        return None if hidden else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
"""

MODULES = sorted(
    ".".join(["freeprompt", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
        ".__init__"
    )
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
NEED_AN_EXTRA = {  # imported by `studio.page.build` only, which says what to install
    f"freeprompt.studio.{name}"
    for name in (
        *("attention_tab", "compare_tab", "controls", "edit_tab", "interface", "layers_tab"),
        *("parts", "runs", "scoreboard_tab"),
    )
}
BARE = [name for name in MODULES if name not in NEED_AN_EXTRA]
IMPORT_ALL = f"\nimport importlib\nfor name in {BARE}:\n    importlib.import_module(name)\n"

EXTRAS = {"accelerate", "gradio", "matplotlib", "peft", "ray", "resvg_py"}


def run(code: str) -> str:
    """Run Python code in a process of its own and return what it printed."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Top-level packages that are loaded after running Python code in a process of its own."""
    return set(json.loads(run(code + LOADED).splitlines()[-1]))


@pytest.mark.parametrize(
    "code", ["import freeprompt; dir(freeprompt)", HELP], ids=["import", "help"]
)
def test_the_first_contact_is_light(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert "PIL" in loaded_by("import freeprompt, PIL.Image")


def test_public_names_are_sorted_and_there() -> None:
    assert list(freeprompt.__all__) == sorted(freeprompt.__all__)
    missing = [name for name in freeprompt.__all__ if getattr(freeprompt, name, None) is None]
    assert missing == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'edit_picture'"):
        freeprompt.edit_picture  # noqa: B018


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").exists()


def test_every_module_imports_without_the_extras() -> None:
    run(f"HIDDEN = {EXTRAS!r}{WITHOUT}{IMPORT_ALL}")


@pytest.mark.parametrize("name", ["peft", "accelerate"])
def test_the_extras_are_really_hidden(name: str) -> None:
    code = (
        f"import importlib.util\nassert importlib.util.find_spec({name!r}) is None\nimport {name}"
    )
    with pytest.raises(AssertionError, match=f"ModuleNotFoundError: No module named '{name}'"):
        run(f"HIDDEN = {EXTRAS!r}{WITHOUT}{code}")
