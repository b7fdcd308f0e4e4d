"""The command line in this process, in a folder of its own, with models that are small."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.api.samples import SIDE, small_sd, thin_sd

from freeprompt.cli import main
from freeprompt.models import CATALOG


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def notes(self) -> list[str]:
        """What the user is told beside the result."""
        return [line for line in self.err.splitlines() if line.startswith("note: ")]


Freeprompt = Callable[..., Ended]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder: empty, and gone afterwards."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def freeprompt(here, capfd, monkeypatch) -> Iterator[Freeprompt]:
    """Run a command as a pipe would see it; `--model small` and `thin` are small models."""
    for name, source in {"small": small_sd, "thin": thin_sd}.items():
        entry = replace(CATALOG["tiny-sd"], source=source, size=SIDE)
        monkeypatch.setitem(CATALOG, name, entry)
    before = dict(os.environ)

    def run(*words: object) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capfd.readouterr()
        code = end.value.code
        return Ended(code if isinstance(code, int) else 0, out, err)

    yield run
    for name in set(os.environ) - set(before):
        del os.environ[name]


def saved(folder: Path, pipe=None) -> str:
    pipe = pipe or small_sd()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """The small model as a folder in diffusers layout."""
    return saved(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def exact(tmp_path_factory) -> str:
    """A model that predicts no noise at all, so that every inversion of it is exact."""
    pipe = small_sd()
    pipe.unet.conv_out.weight.data.zero_()
    pipe.unet.conv_out.bias.data.zero_()
    return saved(tmp_path_factory.mktemp("models") / "exact", pipe)
