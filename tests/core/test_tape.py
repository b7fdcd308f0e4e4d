"""Recorded tensors: keys, dtypes, memory, files."""

import pytest
import torch
from tests.core.handmade import randn

from freeprompt.core import Tape
from freeprompt.core.tape import TapeKey
from freeprompt.errors import MissingSource

KEYS = [TapeKey(0, "mid.0.self", "q"), TapeKey(12, "up.3.2.self", "k", False)]
LIKE = torch.zeros(1)


def filled(dtype=torch.float32, **tape):
    made = Tape(**tape)
    for i, key in enumerate(KEYS):
        made.write(key, randn(2, 6, 4, seed=i, dtype=dtype))
    return made


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_read_back_from_its_text(key):
    assert TapeKey.parse(str(key)) == key
    assert str(KEYS[1]) == "12/up.3.2.self/k/uncond"


def test_a_saved_tape_comes_back_bit_for_bit(tmp_path):
    tape = filled()
    tape.write(TapeKey(1, "mid.0.self", "v"), randn(2, 6, 4).transpose(0, 1))  # not contiguous
    tape.save(tmp_path / "t.safetensors")
    back = Tape.load(tmp_path / "t.safetensors")
    assert sorted(back.tensors) == sorted(tape.tensors)
    assert all(torch.equal(back.tensors[key], x) for key, x in tape.tensors.items())
    assert all(back.tensors[key].dtype == x.dtype for key, x in tape.tensors.items())
    assert back.nbytes == tape.nbytes and len(back) == 3


def test_tensors_keep_their_dtype_unless_the_tape_has_one():
    for dtype in (torch.bfloat16, torch.float64):
        assert {x.dtype for x in filled(dtype).tensors.values()} == {dtype}
    half = Tape(dtype=torch.float16)
    half.write(KEYS[0], randn(2, 6, 4))
    assert half.tensors[KEYS[0]].dtype == torch.float16


def test_reading_comes_in_the_dtype_of_the_reader():
    half = Tape(dtype=torch.float16)
    value = randn(2, 6, 4, dtype=torch.float32)
    half.write(KEYS[0], value)
    read = half.read(KEYS[0], like=value)
    assert read.dtype == torch.float32
    assert torch.allclose(read, value, atol=2e-3) and not torch.equal(read, value)


def test_memory_is_counted_in_bytes():
    assert Tape().nbytes == 0
    assert filled().nbytes == 2 * (2 * 6 * 4) * 4
    half = Tape(dtype=torch.float16)
    half.write(KEYS[0], randn(2, 6, 4))
    assert half.nbytes == 2 * 6 * 4 * 2


def test_what_is_written_is_a_copy_without_gradient():
    value = randn(2, 6, 4).requires_grad_()
    tape = Tape(device="cpu")
    tape.write(KEYS[0], value)
    held = tape.tensors[KEYS[0]]
    assert not held.requires_grad and held.data_ptr() != value.data_ptr()


def test_writing_again_replaces():
    tape = filled()
    tape.write(KEYS[0], torch.ones(1))
    assert len(tape) == 2 and torch.equal(tape.read(KEYS[0], LIKE), torch.ones(1))


def test_the_other_half_stands_in_for_one_that_was_not_recorded():
    """An inversion at guidance 1 has conditional rows only."""
    tape = filled()
    for key in KEYS:
        other = TapeKey(key.step, key.site, key.name, not key.conditional)
        assert torch.equal(tape.read(other, LIKE), tape.read(key, LIKE))


def test_a_halfs_own_record_comes_first():
    tape, key = filled(), KEYS[0]
    tape.write(TapeKey(key.step, key.site, key.name, False), torch.ones(1))
    assert not torch.equal(tape.read(key, LIKE), torch.ones(1))


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        (TapeKey(3, "mid.0.self", "q"), "0/mid.0.self/q/cond"),
        (TapeKey(0, "up.3.2.self", "k"), "12/up.3.2.self/k/uncond"),
        (TapeKey(0, "mid.0.self", "k"), "0/mid.0.self/q/cond"),
        (TapeKey(11, "elsewhere.self", "q"), "0/mid.0.self/q/cond"),
    ],
)
def test_what_is_missing_is_named_with_the_nearest(asked, nearest):
    """The same site counts more than the same tensor, and that more than a near step."""
    with pytest.raises(MissingSource) as error:
        filled().read(asked, LIKE)
    assert f"no {asked}." in str(error.value) and f"nearest record is {nearest};" in str(
        error.value
    )
