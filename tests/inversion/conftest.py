"""The tiny random model that inversions are tested on."""

import pytest

from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def both(request):
    """Either kind of prediction."""
    return adapt(tiny_sd(prediction=request.param), "tiny")
