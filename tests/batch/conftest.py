"""A model that other processes find, a small data set, and a run that nothing disturbed."""

from pathlib import Path

import pytest
from tests.api.samples import small_sd
from tests.batch.samples import EDITS, asked, asked_together, write_data

from freeprompt.batch import run


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("batch-model")
    small_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("batch-data"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory, model, manifest) -> Path:
    """Folder of a run in one go."""
    out = tmp_path_factory.mktemp("batch") / "whole"
    assert run(asked(manifest, model, out)).done == EDITS
    return out


@pytest.fixture(scope="session")
def whole_together(tmp_path_factory, model, manifest) -> Path:
    """Folder of a run in one go, in which two images go side by side."""
    out = tmp_path_factory.mktemp("batch") / "together"
    assert run(asked_together(manifest, model, out)).done == EDITS
    return out
