"""The random model that all methods are tested on."""

import pytest
import torch

from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


@pytest.fixture(scope="module")
def model(pipe):
    return adapt(pipe, "tiny")
