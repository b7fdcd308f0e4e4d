"""The import hook of conftest.py is alive: a wrong shape in the core is an error under pytest."""

from types import SimpleNamespace

import pytest
import torch
from jaxtyping import TypeCheckError

from freeprompt.core import PAIR, Call
from freeprompt.core.sites import Site

SITE = Site(kind="self", block="mid.0", index=1, scale=1, halvings=0, path="mid")
RUN = SimpleNamespace(step=0, rows=PAIR)


def test_a_right_shape_passes() -> None:
    x = torch.randn(4, 1, 9, 8)
    assert Call(site=SITE, run=RUN, q=x, k=x, v=x).with_(scale=1.0).probs().shape == (4, 1, 9, 9)


def test_a_wrong_shape_is_caught() -> None:
    x = torch.randn(4, 1, 9, 8)
    with pytest.raises(TypeCheckError, match="'q'"):
        Call(site=SITE, run=RUN, q=x[0], k=x, v=x)
    with pytest.raises(TypeCheckError, match="'v'"):
        Call(site=SITE, run=RUN, q=x, k=x, v=x[:, :, :4])
