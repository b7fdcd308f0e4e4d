"""Shares, records and map stores against maps worked out by hand, in float64."""

import pytest
import torch
from tests.core.handmade import CONV, CROSS, LOW, TOP, call_at, pass_through, randn, run_at

from freeprompt.core import (
    PAIR,
    SOURCE,
    TARGET,
    TRIPLE,
    Control,
    MapStore,
    Record,
    Run,
    Share,
    ShareFeature,
    Sites,
    Tape,
    Window,
    attend,
)
from freeprompt.core.control import ALWAYS, NOWHERE
from freeprompt.core.tape import TapeKey
from freeprompt.errors import ControlNeverFired, FreepromptError, MissingSource

SELF = Sites("self:all")
NOW = Window(0, 10)
# batch index of the row whose map row i applies, by layout and half; halves meet their own
TAKES = [
    (PAIR, "cond", {3: 2}),
    (PAIR, "uncond", {1: 0}),
    (PAIR, "both", {1: 0, 3: 2}),
    (PAIR.with_targets(2), "cond", {4: 3, 5: 3}),
    (PAIR.with_targets(2), "both", {1: 0, 2: 0, 4: 3, 5: 3}),
    (TRIPLE, "cond", {2: 0}),
    (TRIPLE, "uncond", {1: 0}),
    (TRIPLE.with_targets(2), "both", {1: 0, 2: 0, 3: 0, 4: 0}),
    (PAIR.without(half="uncond"), "cond", {1: 0}),
]


def share(half="cond", **more):
    return Share(sites=SELF, window=NOW, half=half, **more)


@pytest.mark.parametrize(("rows", "half", "takes"), TAKES)
def test_sharing_q_and_k_is_swapping_maps(rows, half, takes):
    """The paper's edit: the target's values under the source's map, everyone else untouched."""
    call = call_at(run_at(rows=rows))
    out, plain = attend(call, [share(half)]), attend(call, [])
    maps = (call.q @ call.k.transpose(-1, -2) / 2).softmax(-1)  # head_dim 4
    for i in range(len(rows)):
        if i in takes:
            wanted = maps[takes[i]] @ call.v[i]
            assert torch.allclose(out[i], wanted, rtol=0, atol=1e-12)
            assert not torch.allclose(wanted, plain[i], atol=1e-2)
        else:
            assert torch.equal(out[i], plain[i])


@pytest.mark.parametrize("names", [("q",), ("k", "v"), ("q", "k", "v"), ()])
def test_only_the_named_tensors_are_shared(names):
    call = call_at(run_at())
    shared = share(names=names).qkv(call)
    for name in ("q", "k", "v"):
        before, after = getattr(call, name), getattr(shared, name)
        assert torch.equal(after[3], before[2 if name in names else 3])
        assert torch.equal(after[:3], before[:3])


def test_sharing_cross_attention_keeps_the_keys_own_length():
    call = call_at(run_at(), CROSS, tokens=6, keys=9)
    assert attend(call, [share(names=("k", "v"))]).shape == (4, 2, 6, 4)


@pytest.mark.parametrize("half", ["cond", "both"])
def test_a_taped_source_equals_one_in_the_batch(half):
    together = call_at(run_at(step=4))
    tape = Tape()
    alone = run_at(step=4, rows=PAIR.without(branch="target"))
    attend(pick(together, alone, [0, 2]), [Record(sites=SELF, window=NOW, tape=tape)])
    later = pick(together, run_at(step=4, rows=TARGET), [1, 3])
    taped, wanted = share(half, tape=tape).qkv(later), share(half).qkv(together)
    assert torch.equal(taped.q, wanted.q[[1, 3]]) and torch.equal(taped.k, wanted.k[[1, 3]])
    assert torch.equal(taped.v, later.v)


def pick(call, run, rows):
    """The same call with only some of its rows, in another run."""
    return call.with_(run=run, q=call.q[rows], k=call.k[rows], v=call.v[rows])


def test_one_conditional_record_serves_both_target_halves():
    tape, source = Tape(), call_at(run_at(rows=SOURCE))
    Record(sites=SELF, window=NOW, tape=tape).qkv(source)
    shared = share("both", tape=tape).qkv(call_at(run_at(rows=TARGET), seed=1))
    assert torch.equal(shared.q, source.q.expand(2, -1, -1, -1))


def test_a_record_holds_the_source_rows_under_step_site_name_and_half():
    call, tape = call_at(run_at(step=3)), Tape()
    record = Record(names=("q", "v"), sites=SELF, window=NOW, tape=tape)
    assert record.qkv(call) is call
    keys = [TapeKey(3, "mid.0.self", name, half) for name in ("q", "v") for half in (False, True)]
    assert sorted(tape.tensors) == sorted(keys)
    for key in keys:
        wanted = getattr(call, key.name)[2 if key.conditional else 0]
        assert torch.equal(tape.tensors[key], wanted)


def test_a_record_is_a_copy():
    """In-place work of the network on q must not reach the tape."""
    call, tape = call_at(run_at(rows=SOURCE)), Tape()
    Record(sites=SELF, window=NOW, tape=tape).qkv(call)
    before = call.q.clone()
    call.q.zero_()
    assert torch.equal(tape.tensors[TapeKey(0, "mid.0.self", "q")], before[0])


def test_sharing_without_a_source_says_what_to_do():
    with pytest.raises(MissingSource, match=r"no source row.*no tape was given"):
        attend(call_at(run_at(rows=TARGET)), [share()])


def test_an_empty_tape_is_said_to_be_empty():
    with pytest.raises(MissingSource, match=r"no 0/mid\.0\.self/q/cond\. It is empty.*Record"):
        attend(call_at(run_at(rows=TARGET)), [share(tape=Tape())])


def test_the_nearest_record_is_named():
    tape = Tape()
    for step, site in ((0, "mid.0.self"), (3, "mid.0.self"), (5, "down.0.self")):
        tape.write(TapeKey(step, site, "q"), torch.zeros(2, 6, 4))
    with pytest.raises(MissingSource) as error:
        attend(call_at(run_at(step=5, rows=TARGET)), [share(tape=tape)])
    assert "The tape has no 5/mid.0.self/q/cond." in str(error.value)
    assert "nearest record is 3/mid.0.self/q/cond" in str(error.value)


def test_a_half_without_rows_is_no_edit():
    """At guidance 1 there are no unconditional rows; sharing them alone would do nothing."""
    rows = PAIR.without(half="uncond")
    control = share("uncond")
    with pytest.raises(ControlNeverFired, match="uncond"):
        attend(call_at(run_at(rows=rows, controls=[control])), [control])


@pytest.mark.parametrize(
    ("rows", "half", "order"),
    [
        (PAIR, "both", [0, 0, 2, 2]),
        (PAIR, "cond", [0, 1, 2, 2]),
        (TRIPLE.with_targets(2), "uncond", [0, 0, 0, 3, 4]),
    ],
)
def test_features_are_taken_by_row(rows, half, order):
    x = randn(len(rows), 3, 4, 5)
    control = ShareFeature(sites=Sites("feature:all"), window=NOW, half=half)
    assert torch.equal(control.feature(CONV, 0, rows, x), x[order])


def test_features_are_shared_in_both_halves_unless_told_otherwise():
    assert ShareFeature(sites=Sites("feature:all"), window=NOW).half == "both"
    assert share().half == "cond" and Share(sites=SELF, window=NOW).names == ("q", "k")


@pytest.mark.parametrize("kind", [Share, ShareFeature, Record, MapStore])
def test_where_must_be_said(kind):
    """The default of the base class, nowhere, must not become that of an edit."""
    with pytest.raises(TypeError, match="sites"):
        kind(**{"window": NOW, **({"tape": Tape()} if kind is Record else {})})


def test_all_moments_are_identity_by_default():
    control, call = Control(), call_at(run_at())
    probs, x, state = call.probs(), randn(4, 3, 2, 2), {"target": randn(1, 4, 2, 2)}
    assert control.qkv(call) is call
    assert control.probs(call, probs) is probs
    assert control.feature(CONV, 0, PAIR, x) is x
    assert control.latents(0, PAIR, state) is state
    assert control.sites == NOWHERE and not control.sites
    assert control.window == ALWAYS and 10**6 in control.window
    assert (control.needs_probs, control.edits_probs, control.observes) == (False, False, False)


def steps_of_calls(count=3, dtype=torch.float64):
    run = run_at()
    for step in range(count):
        run.step = step
        yield call_at(run, seed=step, keys=5, dtype=dtype)


@pytest.mark.parametrize("heads", ["mean", "each"])
def test_a_map_store_holds_the_mean_over_steps(heads):
    store = MapStore(sites=SELF, heads=heads)
    for call in steps_of_calls():
        attend(call, [store])
    wanted = torch.stack([call.probs() for call in steps_of_calls()]).mean(0)
    wanted = wanted.mean(1, keepdim=True) if heads == "mean" else wanted
    found = store.maps["mid.0.self"]
    assert found.shape == (4, 1 if heads == "mean" else 2, 6, 5)
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    assert torch.allclose(found.double(), wanted, rtol=0, atol=1e-7)
    assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-6)
    assert store.counts == {"mid.0.self": 3}


def test_a_map_store_changes_no_picture():
    call = call_at(run_at(), dtype=torch.float32)
    assert torch.equal(attend(call, [MapStore(sites=SELF)]), attend(call, []))


def test_a_map_store_keeps_sites_apart():
    store = MapStore(sites=SELF)
    attend(call_at(run_at(), TOP, tokens=9), [store])
    attend(call_at(run_at(), LOW, tokens=4), [store])
    assert {name: m.shape[2:] for name, m in store.maps.items()} == {
        "down.0.self": (9, 9),
        "mid.0.self": (4, 4),
    }


def test_a_map_store_sees_what_was_edited_before_it():
    call, before, after = call_at(run_at()), MapStore(sites=SELF), MapStore(sites=SELF)
    attend(call, [before, share(), after])  # q and k first: both stores see the shared map
    shared = after.maps["mid.0.self"]
    assert torch.equal(shared[3], shared[2])
    assert torch.equal(before.maps["mid.0.self"], shared)


def test_a_map_store_holds_no_view_of_the_map():
    """The trap of the reference code: a later in-place edit must not change what was stored."""

    class Erase(Control):
        needs_probs = edits_probs = True

        def probs(self, call, probs):
            return probs.zero_()

    store, call = MapStore(sites=SELF, heads="each"), call_at(run_at(), dtype=torch.float32)
    attend(call, [store, Erase()])
    assert torch.allclose(store.maps["mid.0.self"].sum(-1), torch.ones(()), atol=1e-6)


def test_maps_of_other_batches_are_not_mixed_in():
    """A real image's source leaves the batch midway; two rows must not be averaged with one."""
    store, both = MapStore(sites=SELF), PAIR.without(half="uncond")
    attend(call_at(run_at(0, both)), [store])
    with pytest.raises(FreepromptError, match=r"mid\.0\.self"):
        attend(call_at(run_at(1, both.without(branch="source"))), [store])


def test_two_map_stores_with_equal_settings_are_two_controls():
    """One for the whole run and one for a part of it, or one a picture: both must be booked."""
    stores = [MapStore(sites=Sites("self:2")) for _ in range(2)]
    run = Run(stores, PAIR, (TOP, LOW), "handmade")
    with run.at(0, (8, 8)):
        run.hits.append(LOW)
        attend(call_at(run), stores)
    run.finish()
    assert [store.counts for store in stores] == [{"mid.0.self": 1}] * 2


def test_two_records_on_two_tapes_are_two_controls():
    tapes = [Tape(), Tape()]
    records = [Record(sites=Sites("self:2"), window=NOW, tape=tape) for tape in tapes]
    run = Run(records, SOURCE, (TOP, LOW), "handmade")
    for step in range(2):
        with run.at(step, (8, 8)):
            run.hits.append(LOW)
            attend(call_at(run, seed=step), records)
    run.finish()
    assert [len(tape) for tape in tapes] == [4, 4]


def test_observers_say_so_and_edits_do_not():
    assert MapStore.observes and Record.observes
    assert not Share.observes and not ShareFeature.observes
    run = Run([share()], PAIR, (LOW,), "handmade")
    pass_through(run, 0, LOW)
    assert set(run.fired) == {(0, LOW)}
