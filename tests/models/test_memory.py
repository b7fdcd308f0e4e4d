"""Where weights wait, what attention holds, and what is estimated: against what torch reports."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.models.peaks import peak_bytes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.torch_version import TorchVersion

from freeprompt.core import PAIR, Share, Sites, Window
from freeprompt.errors import ConfigError
from freeprompt.models import Memory, adapt, restored
from freeprompt.models.chunks import Chunked, fused
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.memory import free_bytes, pass_bytes, place, ran_out
from freeprompt.models.offload import offload, offloaded, offloading, parts
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

CPU = torch.device("cpu")


def residues(pipe):
    """Everything that hooks could leave behind."""
    modules = [module for part in parts(pipe) for module in part.modules()]
    weights = [weight for module in modules for weight in module.parameters(recurse=False)]
    return (
        {path: id(one) for path, one in pipe.unet.attn_processors.items()},
        [sorted(module.__dict__) for module in modules],
        [(id(w), w.device, w.dtype, w.requires_grad) for w in weights],
        offloading(pipe),
    )


@torch.no_grad()
def shared(pipe):
    """One pass in which the target takes the source's maps."""
    model = adapt(pipe, "tiny")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    text = model.encode_text(["a red dog", "a cat", "a blue car", "a green horse"])
    control = Share(sites=Sites("self:below-top"), window=Window(0, 10))
    with model.attach([control], PAIR) as run, run.at(0, (8, 8)):
        answer = model.predict(noise.expand(4, -1, -1, -1), 501, text)
    return model.decode(answer[3:])


class TestOffload:
    @pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl])
    @pytest.mark.parametrize("how", ["model", "sequential"])
    def test_the_same_edit_and_everything_back(self, build, how):
        pipe = build(sample_size=8)
        plain, identity, before = shared(pipe), fingerprint(pipe), residues(pipe)
        with offloaded(pipe, how):
            assert offloading(pipe) == how
            assert torch.equal(shared(pipe), plain)
            assert restored(pipe.unet)
            assert fingerprint(pipe) == identity
        assert residues(pipe) == before
        assert torch.equal(shared(pipe), plain)

    def test_weights_are_lent_for_the_length_of_a_forward(self, monkeypatch):
        """A copy stands for what would lie on an accelerator."""
        pipe, seen = tiny_sd(sample_size=8), []
        offload(pipe, "sequential", CPU)
        layer = pipe.unet.conv_in
        hook, home = layer._hf_hook, layer.weight.data_ptr()
        monkeypatch.setattr(type(hook), "_there", lambda self, weight: weight.clone())
        monkeypatch.setattr(layer, "_old_forward", lambda x: seen.append(layer.weight.data_ptr()))
        layer(torch.zeros(1, 4, 8, 8))
        assert seen[0] != home and layer.weight.data_ptr() == home

    def test_gradients_find_the_weights_that_were_lent(self, monkeypatch):
        """Another precision stands for another device: weights at home would not fit."""
        pipe = tiny_sd(sample_size=8)
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        states = torch.ones(1, 77, 32).double()

        def slope():
            with torch.enable_grad():
                start = x.clone().requires_grad_()
                answer = pipe.unet(start, torch.tensor(501), states)[0]
                return torch.autograd.grad(answer.square().sum(), start)[0]

        pipe.unet.double()
        plain = slope()
        pipe.unet.float()
        before = [*pipe.unet.parameters()]
        offload(pipe, "sequential", CPU)
        monkeypatch.setattr(
            type(pipe.unet.conv_in._hf_hook),
            "_there",
            lambda self, weight: weight.double() if weight.is_floating_point() else weight,
        )
        assert torch.allclose(slope(), plain)
        assert all(a is b for a, b in zip(before, pipe.unet.parameters(), strict=True))

    def test_an_exception_inside_leaves_nothing_behind(self):
        pipe = tiny_sd(sample_size=8)
        before = residues(pipe)

        def fail(*args):
            raise ValueError("inside")

        layer = pipe.unet.mid_block.resnets[0].conv1
        with (
            pytest.raises(ValueError, match="inside"),
            offloaded(pipe, "sequential"),
            layer.register_forward_hook(fail),
        ):
            shared(pipe)
        assert residues(pipe) == before

    def test_one_kind_within_the_other(self):
        pipe = tiny_sd(sample_size=8)
        plain = shared(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        with offloaded(pipe, "sequential"):
            assert offloading(pipe) == "sequential"
            assert torch.equal(shared(pipe), plain)
        assert offloading(pipe) == "model"
        assert torch.equal(shared(pipe), plain)

    def test_half_precision_that_the_vae_must_leave(self):
        """SDXL's VAE is widened for its own work, also where its weights are on loan."""
        pipe = tiny_sdxl(sample_size=8).to(torch.float16)
        pipe.vae.register_to_config(force_upcast=True)
        plain = shared(pipe)
        with offloaded(pipe, "sequential"):
            assert torch.equal(shared(pipe), plain)
        assert pipe.vae.dtype == torch.float16

    def test_weights_that_wait_elsewhere_are_still_told_apart(self):
        """diffusers' own switch leaves parameters without values; the fingerprint sees through."""
        pipe = tiny_sd(sample_size=8)
        identity = fingerprint(pipe)
        pipe.enable_sequential_cpu_offload(device="cpu")
        assert any(weight.is_meta for weight in pipe.unet.parameters())
        assert fingerprint(pipe) == identity


class TestPlace:
    def test_no_accelerator(self):
        with pytest.raises(ConfigError, match=r"runs on cpu.*bfloat16"):
            place(tiny_sd(sample_size=8), Memory(offload="model"), CPU)

    def test_compile_and_offload_exclude_each_other(self):
        with pytest.raises(ConfigError, match="exclude each other"):
            Memory(compile=True, offload="model")

    def test_a_torch_that_cannot_compile_an_edit(self, monkeypatch):
        monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cu124"))
        with pytest.raises(ConfigError, match=r"needs torch 2.13 or newer; this is 2.6.0\+cu124"):
            Memory(compile=True)

    def test_channels_last_and_tiles(self):
        pipe = tiny_sd(sample_size=8)
        plain = shared(pipe)
        place(pipe, Memory(channels_last=True, vae_tiling=True), CPU)
        assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        assert pipe.vae.use_tiling
        assert torch.allclose(shared(pipe), plain, atol=1e-5)

    def test_a_value_that_is_none(self):
        with pytest.raises(ConfigError, match="one of none, model, sequential; got 'gpu'"):
            Memory(offload="gpu")


@pytest.mark.slow
def test_edits_of_a_network_compiled_in_place():
    """The same bytes without a break; sizes and sharing make graphs, steps and edits do not."""
    script = Path(__file__).with_name("compiled_editor.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert "edits agree" in done.stdout, done.stderr[-2000:]


class TestChunks:
    shape = (2, 3, 100, 8)

    def given(self):
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(self.shape, generator=generator) for _ in range(3))

    @pytest.mark.parametrize("mask", [None, (100, 100), (2, 1, 100, 100), (1, 100)])
    def test_the_same_attention(self, mask):
        q, k, v = self.given()
        keys = None if mask is None else torch.rand(mask, generator=torch.manual_seed(1)) > 0.3
        with sdpa_kernel(SDPBackend.MATH):
            whole = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
            with Chunked(20_000):
                parts = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        assert torch.allclose(parts, whole, atol=1e-6)

    def test_memory_is_bounded(self):
        q, k, v = self.given()
        scores = 2 * 3 * 100 * 100 * 4
        with sdpa_kernel(SDPBackend.MATH):
            whole = peak_bytes(lambda: F.scaled_dot_product_attention(q, k, v))
            with Chunked(scores // 5):
                parts = peak_bytes(lambda: F.scaled_dot_product_attention(q, k, v))
        small = 4 * q.numel() * 4  # the output, and scaled copies of queries and keys
        assert whole > 2 * scores
        assert parts < scores // 5 + small

    def test_a_fused_kernel_is_left_alone(self):
        q, k, v = self.given()
        assert fused(q, k, v, is_causal=False)
        with Chunked(1):
            assert torch.equal(
                F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
            )
        with sdpa_kernel(SDPBackend.MATH):
            assert not fused(q, k, v, is_causal=False)

    def test_under_the_seam(self):
        pipe = tiny_sd(sample_size=8)
        with sdpa_kernel(SDPBackend.MATH):
            plain = shared(pipe)
            with Chunked(4096):
                assert torch.allclose(shared(pipe), plain, atol=1e-5)


class TestEstimate:
    @pytest.mark.parametrize(("build", "low"), [(tiny_sd, 24), (tiny_sdxl, 11)])
    @pytest.mark.parametrize(("rows", "side"), [(4, 16), (2, 32)])
    @torch.no_grad()
    def test_a_pass_takes_what_is_estimated(self, build, low, rows, side):
        model = adapt(build(), "tiny")
        text = model.encode_text(["a dog"] * rows)
        noise = torch.randn(rows, 4, side, side)
        model.predict(noise, 501, text)
        peak = peak_bytes(lambda: model.predict(noise, 501, text))
        guess = pass_bytes(model.pipe.unet, rows, side, side, torch.float32)
        assert peak <= guess * 1.02
        assert peak > guess * low / 26

    def test_free_memory_of_this_machine(self):
        free = free_bytes(CPU)
        assert free is None or free > 0
        assert free_bytes(torch.device("meta")) is None

    @pytest.mark.parametrize(
        ("error", "out"),
        [
            (torch.OutOfMemoryError("CUDA out of memory."), True),
            (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
            (
                RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
                True,
            ),
            (MemoryError(), True),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
            (ValueError("out of memory"), False),
        ],
    )
    def test_what_running_out_looks_like(self, error, out):
        assert ran_out(error) is out
