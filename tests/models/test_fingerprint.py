"""Two checkpoints are told apart; the same one is recognised wherever it lies."""

import pytest
import torch
from peft import LoraConfig

from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.tiny import tiny_sd


@pytest.fixture
def pipe():
    """A model of its own, for a test to change."""
    return tiny_sd()


@pytest.fixture(scope="module")
def shared():
    """One that is left as it was found."""
    return tiny_sd()


@pytest.fixture(scope="module")
def known(shared):
    return fingerprint(shared)


def test_the_same_weights_have_the_same_fingerprint(pipe, known):
    assert fingerprint(pipe) == known == fingerprint(pipe)
    assert len(known) == 16 and int(known, 16) >= 0


def test_other_weights_have_another(known):
    assert fingerprint(tiny_sd(seed=1)) != known


def test_one_changed_weight_is_noticed(shared, known):
    for part, name in (
        ("unet", "conv_in.weight"),
        ("unet", "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_q.weight"),
        ("vae", "decoder.conv_out.bias"),
        ("text_encoder", "final_layer_norm.bias"),
    ):
        names = dict(getattr(shared, part).named_parameters())
        (flat,) = [value.flatten() for found, value in names.items() if found.endswith(name)]
        kept = float(flat[0])
        flat[0] += 1e-6
        assert fingerprint(shared) != known
        flat[0] = kept
    assert fingerprint(shared) == known


def test_every_tensor_counts(shared, known):
    for part in ("unet", "vae", "text_encoder"):
        tensors = list(getattr(shared, part).parameters())
        for value in tensors[:: max(1, len(tensors) // 5)]:
            kept = value.clone()
            value.mul_(1.01).add_(0.01)
            assert fingerprint(shared) != known
            value.copy_(kept)
    assert fingerprint(shared) == known


def test_a_changed_end_of_a_tensor_is_noticed(pipe, known):
    """A sample of 64 must reach across the whole tensor, also where it has 96 values."""
    bias = torch.nn.Parameter(torch.zeros(96), requires_grad=False)
    pipe.unet.register_parameter("extra", bias)
    before = fingerprint(pipe)
    bias[70:] = 1.0
    assert fingerprint(pipe) != before


def test_moving_to_a_wider_dtype_changes_nothing_and_rounding_does(pipe, known):
    assert fingerprint(pipe.to(dtype=torch.float64)) == known
    assert fingerprint(pipe.to(dtype=torch.float32)) == known
    rounded = fingerprint(pipe.to(dtype=torch.bfloat16))
    assert rounded != known
    assert fingerprint(pipe.to(dtype=torch.float32)) == rounded


def test_an_adapter_changes_it_and_unloading_brings_it_back(pipe, known):
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    with_adapter = fingerprint(pipe)
    assert with_adapter != known
    lora = next(v for n, v in pipe.unet.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        lora.add_(1)
    assert fingerprint(pipe) not in (known, with_adapter)
    pipe.unet.unload_lora() if hasattr(pipe.unet, "unload_lora") else pipe.unload_lora_weights()
    assert fingerprint(pipe) == known


@pytest.mark.slow
def test_a_compiled_denoiser_keeps_its_fingerprint(pipe, known):
    pipe.unet = torch.compile(pipe.unet)
    assert fingerprint(pipe) == known


def test_reading_changes_no_weight(shared):
    before = {name: value.clone() for name, value in shared.unet.state_dict().items()}
    fingerprint(shared)
    after = shared.unet.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
