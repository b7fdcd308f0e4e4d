"""Proximal guidance against its formula, item by item."""

import numpy as np
import torch
from tests.core.handmade import randn

from freeprompt.core import PAIR, TARGET, Window
from freeprompt.core.proximal import Proximal, soften

W, SHARE = 5.0, 0.7


def by_hand(cond, uncond):
    """Soft threshold of one item's difference at the quantile of its magnitudes."""
    difference = (cond - uncond).numpy()
    cut = np.quantile(np.abs(difference), SHARE)
    soft = np.where(np.abs(difference) > cut, difference - np.sign(difference) * cut, 0)
    return uncond + W * torch.from_numpy(soft)


def test_the_target_is_guided_by_the_softened_difference_and_the_source_as_before():
    rows = PAIR.with_targets(2)
    noise = randn(len(rows), 4, 3, 5)
    guided = {"source": randn(1, 4, 3, 5), "target": randn(2, 4, 3, 5)}
    control = Proximal(guidance=W, share=SHARE, window=Window(0, 9))
    new = control.guide(0, rows, guided, noise, guided)
    uncond, cond = rows.targets("uncond"), rows.targets("cond")
    wanted = torch.stack([by_hand(noise[c], noise[u]) for c, u in zip(cond, uncond, strict=True)])
    assert torch.allclose(new["target"], wanted, rtol=0, atol=1e-5)
    assert new["source"] is guided["source"]
    changed = (new["target"] != noise[list(uncond)]).double().mean()
    assert abs(float(changed) - (1 - SHARE)) < 0.03


def test_a_quantile_of_one_leaves_no_guidance_and_small_ones_most():
    x = randn(2, 4, 3, 5)
    assert not soften(x, 1.0).any()
    assert torch.allclose(soften(x, 0.0), x, rtol=0, atol=0.1)


def test_without_unconditional_rows_there_is_nothing_to_soften():
    rows = TARGET.without(half="uncond")
    guided = {"target": randn(1, 4, 3, 5)}
    control = Proximal(guidance=W, share=SHARE, window=Window(0, 9))
    assert control.guide(0, rows, guided, randn(1, 4, 3, 5), guided) is guided
