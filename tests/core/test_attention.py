"""`attend`: the only place where softmax(QK^T)V is computed."""

import pytest
import torch
import torch.nn.functional as F
from tests.core.handmade import LOW, call_at, randn, run_at

from freeprompt.core import Call, Control, attend
from freeprompt.core.attention import take

KERNEL = {"dropout_p": 0.0, "is_causal": False}


class Look(Control):
    """Wants the map and returns nonsense; must not change the output."""

    needs_probs = True

    def __init__(self):
        self.seen = []

    def probs(self, call, probs):
        self.seen.append(probs.clone())
        return torch.zeros_like(probs)


class Roll(Control):
    """Edits the map: each query looks where its neighbour looked."""

    needs_probs = edits_probs = True

    def probs(self, call, probs):
        return probs.roll(1, dims=2)


class AddToQueries(Control):
    def __init__(self, amount):
        self.amount = amount

    def qkv(self, call):
        return call.with_(q=call.q * 2 + self.amount)


def masks(batch=4, query=6, key=5):
    keep = torch.rand(batch, 1, query, key, generator=torch.Generator().manual_seed(3)) > 0.4
    keep[..., 0] = True  # a row without any key has no softmax
    bias = randn(batch, 1, 1, key, seed=4)
    return {"none": None, "boolean": keep, "broadcast": keep[:, :, :1], "additive": bias}


@pytest.fixture(params=["none", "boolean", "broadcast", "additive"])
def mask(request):
    return masks()[request.param]


@pytest.fixture(params=[None, 0.3], ids=["scale-none", "scale-0.3"])
def scale(request):
    return request.param


def kernel(call):
    """What the fused kernel says, called without any of ours."""
    return F.scaled_dot_product_attention(
        call.q, call.k, call.v, attn_mask=call.mask, scale=call.scale
    )


def test_without_controls_it_is_the_fused_kernel_bit_for_bit(mask, scale):
    mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    call = call_at(run_at(), keys=5, mask=mask, scale=scale, dtype=torch.float32, options=KERNEL)
    assert torch.equal(attend(call, []), kernel(call))


def test_options_reach_the_kernel():
    call = call_at(run_at(), options={"is_causal": True})
    wanted = F.scaled_dot_product_attention(call.q, call.k, call.v, is_causal=True)
    assert torch.equal(attend(call, []), wanted)
    assert not torch.equal(wanted, kernel(call))


def test_looking_changes_no_picture(mask, scale):
    call, look = call_at(run_at(), keys=5, mask=mask, scale=scale), Look()
    assert torch.equal(attend(call, [look]), kernel(call))
    assert len(look.seen) == 1


def test_the_map_is_not_made_unless_someone_asks():
    class Unmappable(Call):
        def probs(self):
            raise MemoryError

    call = Unmappable(**vars(call_at(run_at())))
    attend(call, [Control(), AddToQueries(1.0)])
    with pytest.raises(MemoryError):
        attend(call, [Look()])


def test_an_edited_map_is_applied_to_the_values(mask, scale):
    call = call_at(run_at(), keys=5, mask=mask, scale=scale)
    wanted = call.probs().roll(1, dims=2) @ call.v
    assert torch.allclose(attend(call, [Roll()]), wanted, rtol=0, atol=1e-12)
    assert not torch.allclose(wanted, kernel(call), atol=1e-2)


def test_an_edited_output_keeps_the_dtype_of_the_values():
    call = call_at(run_at(), dtype=torch.bfloat16)
    assert attend(call, [Roll()]).dtype == torch.bfloat16


def test_the_map_is_that_of_the_fused_kernel(mask, scale):
    """With the identity for values, the kernel's output is its map."""
    call = call_at(run_at(), keys=5, mask=mask, scale=scale)
    eye = torch.eye(5, dtype=torch.float64).expand(4, 2, 5, 5)
    assert torch.allclose(call.probs(), kernel(call.with_(v=eye)), rtol=0, atol=1e-12)
    narrow = {n: getattr(call, n).float() for n in ("q", "k", "v")}
    bias = call.mask.float() if mask is not None and mask.is_floating_point() else mask
    single = call.with_(**narrow, mask=bias)
    assert torch.allclose(single.probs(), kernel(single.with_(v=eye.float())), rtol=0, atol=1e-6)


def test_the_map_of_a_causal_call_is_causal():
    call = call_at(run_at(), options={"is_causal": True})
    eye = torch.eye(6, dtype=torch.float64).expand(4, 2, 6, 6)
    assert torch.allclose(call.probs(), call.with_(v=eye).fused(), atol=1e-12)


def test_each_row_of_the_map_sums_to_one(mask, scale):
    call = call_at(run_at(), keys=5, mask=mask, scale=scale)
    assert call.probs().shape == (4, 2, 6, 5)
    assert torch.allclose(call.probs().sum(-1), torch.ones(4, 2, 6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_map_is_at_least_float32(dtype):
    """Large scores: in half precision the softmax would be wrong in the third digit."""
    call = call_at(run_at(), dtype=dtype)
    call = call.with_(q=call.q * 8)
    exact = call.with_(q=call.q.double(), k=call.k.double(), v=call.v.double()).probs()
    assert call.probs().dtype == torch.float32
    assert torch.allclose(call.probs().double(), exact, atol=1e-5)


def test_controls_change_q_k_and_v_in_order():
    call = call_at(run_at())
    wanted = call.with_(q=(call.q * 2 + 1) * 2 + 5)
    assert torch.equal(attend(call, [AddToQueries(1.0), AddToQueries(5.0)]), kernel(wanted))


def test_maps_are_edited_in_order_and_seen_as_edited_so_far():
    """The map is made after all of q, k, v are settled; an observer after an editor sees edits."""
    before, after = Look(), Look()
    call = call_at(run_at())
    attend(call, [before, Roll()])
    attend(call, [Roll(), after])
    assert torch.equal(before.seen[0], call.probs())
    assert torch.equal(after.seen[0], call.probs().roll(1, dims=2))
    late = Look()
    attend(call, [late, AddToQueries(1.0)])
    assert torch.equal(late.seen[0], call.with_(q=call.q * 2 + 1).probs())


def test_editing_without_asking_for_the_map_still_edits():
    """A control that says `edits_probs` alone must not be passed over in silence."""

    class EditsOnly(Roll):
        needs_probs = False

    call = call_at(run_at())
    assert torch.equal(attend(call, [EditsOnly()]), attend(call, [Roll()]))


def test_controls_leave_the_models_tensors_alone():
    call = call_at(run_at())
    copies = [x.clone() for x in (call.q, call.k, call.v)]
    attend(call, [AddToQueries(1.0), Look(), Roll()])
    assert all(torch.equal(x, y) for x, y in zip(copies, (call.q, call.k, call.v), strict=True))


def test_a_call_knows_step_and_rows_of_its_run():
    run = run_at(step=7)
    call = call_at(run)
    assert (call.step, call.rows, call.site) == (7, run.rows, LOW)
    run.step = 8
    assert call.step == 8


def test_rows_are_taken_by_number_with_one_copy():
    x = randn(3, 2, 2)
    taken = take(x, [2, 0, 0])
    assert torch.equal(taken, x[[2, 0, 0]])
    taken.zero_()
    assert bool(x.all())
