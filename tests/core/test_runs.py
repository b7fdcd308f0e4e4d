"""Several runs in one pass: each sees its own rows, its own step and nobody else's controls."""

import torch
from tests.core.handmade import CONV, LOW, SITES, TOP, call_at, randn

from freeprompt.core import PAIR, SOURCE, Control, Run, Runs, Share, ShareFeature, Sites, Window
from freeprompt.core.rows import TARGET

SIZE = (8, 8)


def share(sites="self:all", start=0, stop=10):
    return Share(sites=Sites(sites), window=Window(start, stop))


def running(rows, *controls):
    return Run(controls, rows, SITES, "toy")


def whole(*runs, seed=0):
    """A call whose rows are those of all runs."""
    rows = type(PAIR)(tuple(row for run in runs for row in run.rows))
    return call_at(running(rows), seed=seed)


def rows_of(call, run, start):
    stop = start + len(run.rows)
    return call.with_(run=run, q=call.q[start:stop], k=call.k[start:stop], v=call.v[start:stop])


def test_each_run_edits_its_own_rows() -> None:
    one, other = running(PAIR, share()), running(PAIR, share(start=5))
    call, runs = whole(one, other), Runs(SITES)
    with one.at(0, SIZE), other.at(7, SIZE), runs.at([(one, 4), (other, 4)], SIZE):
        assert (runs.count, runs.latent_size) == (8, SIZE)
        out = runs.attended(LOW, call)
        for run, start in ((one, 0), (other, 4)):
            mine = run.attended(LOW, rows_of(call, run, start))
            assert torch.equal(out[start : start + 4], mine)
        assert not torch.allclose(out[3], call.fused()[3])
        one.hits.append(TOP)
        other.hits.append(TOP)
    assert runs.hits == []
    assert set(one.fired) == {(0, LOW), (0, TOP)}
    assert set(other.fired) == {(7, LOW), (7, TOP)}


def test_rows_without_a_run_and_runs_at_rest_are_left_alone() -> None:
    late, busy = running(TARGET, share(start=5)), running(PAIR, share(stop=3))
    call, runs = whole(running(SOURCE), late, busy), Runs(SITES)
    with late.at(0, SIZE), runs.at([(None, 1), (late, 2), (busy, 4)], SIZE):
        assert runs.live[LOW] == ()  # nobody holds `busy` at a step
    with late.at(0, SIZE), busy.at(0, SIZE), runs.at([(None, 1), (late, 2), (busy, 4)], SIZE):
        out = runs.attended(LOW, call)
        busy.hits.append(TOP)
    assert torch.equal(out[:3], call.fused()[:3])
    assert not torch.equal(out[3:], call.fused()[3:])
    assert not late.fired


def test_features_are_shared_within_a_run() -> None:
    inject = ShareFeature(sites=Sites("feature:all"), window=Window(0, 10))
    one, other = running(PAIR), running(PAIR, inject)
    runs, out = Runs(SITES), randn(8, 3, 4, 4)
    with one.at(0, SIZE), other.at(0, SIZE), runs.at([(one, 4), (other, 4)], SIZE):
        changed = runs.featured(CONV, out)
    assert torch.equal(changed[:4], out[:4])
    assert torch.equal(changed[5], out[4])  # the unconditional target is the source
    assert other.fired == {(0, CONV): 1}
    assert torch.equal(runs.featured(CONV, out), out)  # between passes


def test_masks_with_a_row_each_are_cut() -> None:
    class Masks(Control):
        """Keeps the masks that it is shown."""

        sites, window = Sites("self:all"), Window(0, 10)

        def qkv(self, call):
            seen.append(call.mask)
            return call

    seen: list = []
    one, other = running(SOURCE, Masks()), running(SOURCE, Masks())
    call, runs = whole(one, other), Runs(SITES)
    own = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    own[1, ..., 0] = False
    for mask in (own, own[:1]):
        with one.at(0, SIZE), other.at(0, SIZE), runs.at([(one, 1), (other, 1)], SIZE):
            runs.attended(LOW, call.with_(mask=mask))
            one.hits.append(TOP)
            other.hits.append(TOP)
    assert [tuple(mask.shape) for mask in seen] == [(1, 1, 1, 6)] * 4
    assert [bool(mask.all()) for mask in seen] == [True, False, True, True]
