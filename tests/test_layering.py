"""Who may import whom.  A new module needs a place in `MAY_IMPORT`: that is the point of it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import freeprompt

ROOT = Path(freeprompt.__file__).parent

ENGINE = {"errors", "core", "models", "inversion", "methods", "picture", "images", "provenance"}
EVERYTHING = ENGINE | {"api", "analysis", "metrics", "world", "judge", "train", "studio", "bench"}
EVERYTHING |= {"journal", "batch", "finetune"}
MAY_IMPORT = {
    "errors": set(),
    "core": {"errors"},
    "world": {"errors"},
    "models": {"errors", "core"},
    "inversion": {"errors", "core"},
    "methods": {"errors", "core"},
    "picture": {"errors", "core"},
    "images": {"errors", "core", "picture"},
    "provenance": {"errors", "core"},
    "journal": {"errors", "images"},
    "metrics": {"errors", "core", "picture", "images"},
    "analysis": ENGINE | {"world", "judge"},
    "api": ENGINE | {"analysis"},
    "pipeline": ENGINE | {"api"},
    "finetune": {"errors", "core", "models", "picture", "images"},
    "judge": {"errors", "world"},
    "train": {"errors", "world", "judge"},
    "studio": EVERYTHING,
    "bench": EVERYTHING - {"batch"},
    "batch": ENGINE | {"api", "metrics", "bench", "journal"},
    "cli": EVERYTHING,
    "__main__": {"cli"},
    "": set(),  # freeprompt/__init__.py imports on first use only
}
MAY_IMPORT_THE_PACKAGE = {"studio", "bench", "batch", "cli"}

CORE_LIBRARIES = {"torch", "numpy", "einops", "safetensors", "jaxtyping"}
BARRED = {"PIL", "diffusers", "transformers", "gradio"}
NO_PICTURES = {"core", "inversion", "methods"}
ADAPTED = {"diffusers", "transformers", "peft"}
ADAPTERS = {"models", "train", "finetune", "pipeline"}


def files() -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py"))


def layer(file: str) -> str:
    first = file.split("/")[0].removesuffix(".py")
    return "" if first == "__init__" else first


def without_type_checking(tree: ast.Module) -> ast.Module:
    body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n))]
    return ast.Module(body, tree.type_ignores)


def imported(tree: ast.AST, file: str) -> Iterator[str]:
    """Full names of everything that a module imports, wherever in it."""
    package = ["freeprompt", *file.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(file: str, source: str) -> list[str]:
    """Imports in `source` that the layer of `file` (a path inside the package) may not have."""
    here = layer(file)
    if here not in MAY_IMPORT:
        return [f"{file}: {here!r} has no place in MAY_IMPORT"]
    tree = ast.parse(source)
    names = imported(without_type_checking(tree) if here == "" else tree, file)
    return [f"{file} imports {name}" for name in names if not allowed(here, name)]


def allowed(here: str, name: str) -> bool:
    library, _, rest = name.partition(".")
    if library == "freeprompt":
        return allowed_of_ours(here, rest.split(".")[0])
    if here == "core" and library not in CORE_LIBRARIES | sys.stdlib_module_names:
        return False
    if here in NO_PICTURES and library in BARRED:
        return False
    return library not in ADAPTED or here in ADAPTERS


def allowed_of_ours(here: str, there: str) -> bool:
    if there in {here, "__version__"}:
        return True
    if there in MAY_IMPORT and there != "":
        return there in MAY_IMPORT[here]
    return here in MAY_IMPORT_THE_PACKAGE  # `import freeprompt`, `from freeprompt import Editor`


@pytest.mark.parametrize("file", files())
def test_layers(file: str) -> None:
    assert violations(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("errors.py", "import freeprompt.core"),
        ("core/rows.py", "from freeprompt.models import catalog"),
        ("core/rows.py", "from ..models import catalog"),
        ("core/rows.py", "from .. import models"),
        ("core/rows.py", "def f():\n    import PIL.Image"),
        ("core/rows.py", "import scipy"),
        ("core/__init__.py", "from ..world import Scene"),
        ("methods/fpe.py", "from freeprompt.inversion import ddim"),
        ("methods/fpe.py", "if TYPE_CHECKING:\n    from diffusers import UNet2DConditionModel"),
        ("inversion/ddim.py", "from freeprompt import methods"),
        ("inversion/ddim.py", "from freeprompt import Editor"),
        ("models/unet.py", "from freeprompt.methods import fpe"),
        ("world/scene.py", "import freeprompt.images"),
        ("train/loop.py", "from freeprompt.api import load"),
        ("train/loop.py", "import freeprompt"),
        ("api.py", "import peft"),
        ("api.py", "from freeprompt.cli import main"),
        ("bench/grid.py", "from freeprompt.cli import main"),
        ("__init__.py", "from freeprompt.errors import ConfigError"),
        ("surprise.py", "import os"),
    ],
)
def test_a_bad_import_is_caught(file: str, source: str) -> None:
    assert violations(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "core/rows.py",
            "import math, torch\nfrom .sites import Site\nfrom freeprompt import errors",
        ),
        ("core/__init__.py", "from .rows import Rows"),
        ("models/unet.py", "from diffusers import UNet2DConditionModel"),
        ("train/vae.py", "import peft"),
        ("provenance.py", "from freeprompt import __version__"),
        ("cli/edit.py", "import freeprompt\nfrom freeprompt.cli import show"),
        ("__init__.py", "if TYPE_CHECKING:\n    from freeprompt.api import Editor"),
    ],
)
def test_a_good_import_passes(file: str, source: str) -> None:
    assert violations(file, source) == []


def test_no_file_is_long() -> None:
    long = {f for f in files() if len((ROOT / f).read_text(encoding="utf-8").splitlines()) > 400}
    assert not long
