"""Shares of the steps: truncation, as in P2P, PnP and FPE, for any number type."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from freeprompt.core import Window, step_count
from freeprompt.errors import BadFraction, ConfigError


@pytest.mark.parametrize(
    ("steps", "share", "expected"),
    [
        (50, 0.8, 40),
        (50, 0.4, 20),
        (100, 0.29, int(100 * 0.29)),
        (100, 0.29, 28),  # 28.999999999999996: rounding would give 29
        (10, 0.99, 9),
        (10, 0.25, 2),
        (1, 0.99, 0),
        (50, 0.0, 0),
        (50, 1.0, 50),
        (50, 0, 0),
        (50, 1, 50),
        (50, np.float64(0.8), 40),
        (50, np.float32(0.5), 25),
        (50, np.int64(1), 50),
        (50, Fraction(4, 5), 40),
    ],
)
def test_a_share_becomes_steps_by_truncation(steps, share, expected):
    assert step_count(steps, share) == expected
    assert type(step_count(steps, share)) is int


@pytest.mark.parametrize(
    "share",
    [
        *(True, False, np.True_, "0.8", None, [0.8], 0.5 + 0j, torch.tensor(0.8)),
        *(float("nan"), float("inf"), -float("inf"), -0.1, 1.1, 2, -1, np.float32(1.5)),
    ],
)
def test_what_is_no_share_is_refused_and_quoted(share):
    with pytest.raises(BadFraction) as error:
        step_count(50, share)
    assert f"got {share!r}." in str(error.value) and "from 0 to 1" in str(error.value)
    assert "0.8 of 50 steps means the first 40." in str(error.value)
    assert isinstance(error.value, ConfigError)


def test_a_window_holds_its_first_step_and_not_its_last():
    window = Window(2, 5)
    assert [i for i in range(8) if i in window] == [2, 3, 4]
    assert len(window) == 3


def test_a_window_until_a_share_starts_at_the_noisiest_step():
    assert Window.until(0.8, 50) == Window(0, 40)
    assert len(Window.until(0, 50)) == 0 and 0 not in Window.until(0, 50)
    assert 49 in Window.until(1, 50)
    with pytest.raises(BadFraction, match=r"got 1\.2"):
        Window.until(1.2, 50)


def test_a_window_that_ends_before_it_starts_is_empty():
    assert len(Window(5, 2)) == 0 and not any(i in Window(5, 2) for i in range(8))
