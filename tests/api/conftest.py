"""One small editor for all tests that leave it as they found it."""

import pytest
from tests.api.samples import small_sd

import freeprompt as fp


@pytest.fixture(scope="session")
def editor() -> fp.Editor:
    return fp.Editor(small_sd(), name="small")
