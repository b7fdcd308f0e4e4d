"""Sites, runs and attention calls made by hand: controls can be tested without a network."""

import torch

from freeprompt.core import PAIR, Call, Run, Site

TOP = Site(kind="self", block="down.0", index=1, scale=1, halvings=0, path="top")
LOW = Site(kind="self", block="mid.0", index=2, scale=2, halvings=1, path="low")
CROSS = Site(kind="cross", block="mid.0", index=1, scale=2, halvings=1, path="cross")
CONV = Site(kind="feature", block="up.0", index=1, scale=1, halvings=0, path="conv")
SITES = (TOP, LOW, CROSS, CONV)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run_at(step=0, rows=PAIR, controls=()):
    """A run held at a step, without the bookkeeping of `Run.at`."""
    run = Run(controls, rows, SITES, "handmade")
    run.step = step
    return run


def call_at(run, site=LOW, *, seed=0, tokens=6, keys=None, dtype=torch.float64, **more):
    """An attention call of two heads with random q, k and v for every row of the run."""
    batch, keys = len(run.rows), keys or tokens
    q = randn(batch, 2, tokens, 4, seed=seed, dtype=dtype)
    k, v = (randn(batch, 2, keys, 4, seed=seed + i, dtype=dtype) for i in (100, 200))
    return Call(site=site, run=run, q=q, k=k, v=v, **more)


def pass_through(run, step, *sites):
    """One pass of a network that goes through `sites`."""
    with run.at(step, (8, 8)):
        run.hits.extend(sites)
