"""Installing and restoring: nothing is left behind, and nothing is edited in silence."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from freeprompt.core import PAIR, TARGET, MapStore, Share, ShareFeature, Sites, Text, Window
from freeprompt.errors import AlreadyAttached, ControlNeverFired, UnsupportedModel
from freeprompt.models import adapt, restored
from freeprompt.models.tiny import tiny_sd

BELOW_TOP = Sites("self:below-top")
ALWAYS = Window(0, 10)


@pytest.fixture
def model():
    return adapt(tiny_sd(), "tiny")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def share(sites=BELOW_TOP, **more):
    return Share(sites=sites, window=ALWAYS, **more)


def batch(model, rows=PAIR, size=(8, 8)):
    """The same noise and different text on every row."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, *size, generator=generator).expand(len(rows), -1, -1, -1)
    text = model.encode_text(["a red dog", "a cat", "a blue car", "a green horse"][: len(rows)])
    return x, text


def forward(model, controls=(), rows=PAIR, step=0, size=(8, 8)):
    x, text = batch(model, rows, size)
    if not controls:
        return model.predict(x, 501, text)
    with model.attach(controls, rows) as run, run.at(step, size):
        return model.predict(x, 501, text)


def state(model):
    unet = model.pipe.unet
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())
    return (
        {path: id(p) for path, p in unet.attn_processors.items()},
        hooks,
        len(list(unet.modules())),
    )


class TestRestoring:
    def test_after_a_run_everything_is_the_same_object(self, model):
        before = state(model)
        feature = ShareFeature(sites=Sites("feature:up.1.1"), window=ALWAYS)
        forward(model, [share(), feature])
        assert state(model) == before
        assert restored(model.pipe.unet)

    @pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
    def test_after_an_exception_too(self, model, problem):
        before = state(model)
        feature = ShareFeature(sites=Sites("feature:up.1.1"), window=ALWAYS)
        with pytest.raises(problem), model.attach([share(), feature], PAIR) as run:
            with run.at(0, (8, 8)):
                model.predict(batch(model)[0], 501, batch(model)[1])
            assert state(model) != before
            raise problem
        assert state(model) == before

    def test_after_an_exception_inside_the_network(self, model):
        before = state(model)

        class Broken(Share):
            def qkv(self, call):
                raise RuntimeError("inside")

        with pytest.raises(RuntimeError, match="inside"):
            forward(model, [Broken(sites=BELOW_TOP, window=ALWAYS)])
        assert state(model) == before
        forward(model, [share()])  # and it can be used again

    def test_a_pending_exception_is_not_masked_by_the_never_fired_check(self, model):
        with pytest.raises(ValueError, match="mine"), model.attach([share()], PAIR):
            raise ValueError("mine")

    def test_plain_output_is_unchanged_by_having_been_attached(self, model):
        plain = forward(model)
        forward(model, [share()])
        assert torch.equal(forward(model), plain)


class TestExclusion:
    def test_nested_attach_is_refused(self, model):
        with model.attach([], PAIR), pytest.raises(AlreadyAttached, match="tiny"):
            forward(model, [share()])
        forward(model, [share()])

    def test_also_through_another_adapter_of_the_same_network(self, model):
        other = adapt(model.pipe, "other")
        with model.attach([], PAIR), pytest.raises(AlreadyAttached, match="other"):
            forward(other, [share()])

    def test_also_through_a_compiled_wrapper(self, model):
        pipe = tiny_sd()
        first = adapt(pipe, "first")
        with first.attach([], PAIR):
            pipe.unet = torch.compile(pipe.unet, backend="eager")
            with pytest.raises(AlreadyAttached), adapt(pipe, "second").attach([], PAIR):
                pass

    def test_a_second_thread_works_and_is_refused_only_while_the_first_runs(self, model):
        plain, edited = forward(model), forward(model, [share()])
        seen = {}

        def work(name):
            try:
                with torch.no_grad():  # grad mode is thread-local
                    seen[name] = forward(model, [share()])
            except AlreadyAttached as error:
                seen[name] = error

        def in_thread(name):
            thread = threading.Thread(target=work, args=(name,))
            thread.start()
            thread.join()

        in_thread("free")
        with model.attach([], PAIR):
            in_thread("busy")
        assert torch.equal(seen["free"], edited)
        assert isinstance(seen["busy"], AlreadyAttached)
        assert not torch.equal(plain, edited)


class TestNothingInSilence:
    def test_a_selection_that_matches_nothing(self, model):
        with pytest.raises(ControlNeverFired, match=r"'40-50'.*self:1-16"):
            forward(model, [share(Sites("self:40-50"))])

    def test_a_control_that_never_fires(self, model):
        """A network that skips the chosen attention must not pass for an edit."""
        block = model.pipe.unet.mid_block
        block.forward = lambda hidden, *args, **kwargs: hidden
        with pytest.raises(UnsupportedModel, match=r"mid\.0\.self"):
            forward(model, [share(Sites("self:mid"))], size=(16, 16))

    def test_attention_slicing_is_refused_by_name(self, model):
        model.pipe.enable_attention_slicing(1)
        with pytest.raises(
            UnsupportedModel, match=r"SlicedAttnProcessor.*disable_attention_slicing"
        ):
            forward(model, [share()])
        model.pipe.disable_attention_slicing()
        forward(model, [share()])

    def test_merged_tokens_are_refused(self, model):
        run_rows = PAIR
        x, text = batch(model)
        with (
            pytest.raises(UnsupportedModel, match="expected 4 rows"),
            model.attach([share()], run_rows) as run,
            run.at(0, (16, 16)),
        ):
            model.predict(x, 501, text)

    def test_outside_its_window_a_control_rests(self, model):
        assert torch.equal(forward(model, [share()], step=10), forward(model))


class TestEquality:
    def test_no_controls_is_bit_identical(self, model):
        plain = forward(model)
        x, text = batch(model)
        with model.attach([], PAIR) as run, run.at(0, (8, 8)):
            assert torch.equal(model.predict(x, 501, text), plain)

    def test_looking_changes_nothing(self, model):
        store = MapStore(sites=Sites("self:all+cross:all"), window=ALWAYS)
        assert torch.equal(forward(model, [store]), forward(model))
        assert len(store.maps) == 32
        for site in model.sites:
            if site.kind != "feature":
                queries = site.grid(8, 8)[0] * site.grid(8, 8)[1]
                keys = queries if site.kind == "self" else 77
                assert store.maps[site.name].shape == (4, 1, queries, keys)

    def test_sharing_really_edits_and_only_its_row(self, model):
        plain, edited = forward(model), forward(model, [share()])
        assert torch.equal(edited[:3], plain[:3])
        assert (edited[3] - plain[3]).abs().max() > 1e-4

    def test_plug_and_play_feature_is_a_leaf_hook(self, model):
        """ShareFeature on conv2 equals copying the rows by hand at that module."""
        control = ShareFeature(sites=Sites("feature:up.1.1"), window=ALWAYS)
        edited = forward(model, [control])
        order = [0, 0, 2, 2]
        conv = model.pipe.unet.up_blocks[1].resnets[1].conv2
        handle = conv.register_forward_hook(lambda module, args, out: out[order])
        by_hand = forward(model)
        handle.remove()
        assert torch.equal(edited, by_hand)
        assert not torch.equal(edited, forward(model))

    def test_odd_sizes(self, model):
        plain = forward(model, size=(17, 25))
        edited = forward(model, [share()], size=(17, 25))
        assert torch.equal(edited[:3], plain[:3])
        assert not torch.equal(edited[3], plain[3])


class TestOtherMachinery:
    """The same edit through everything that changes how attention is computed."""

    def edit(self, model):
        return forward(model, [share()])

    def test_fused_qkv(self, model):
        expected = self.edit(model)
        model.pipe.fuse_qkv_projections(vae=False)
        assert (self.edit(model) - expected).abs().max() < 1e-5
        model.pipe.unfuse_qkv_projections(vae=False)
        assert torch.equal(self.edit(model), expected)

    def test_lora(self, model):
        from peft import LoraConfig

        before = self.edit(model)
        model.pipe.unet.add_adapter(
            LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
        )
        plain, edited = forward(model), self.edit(model)
        assert torch.equal(edited[:3], plain[:3])
        assert (edited[3] - plain[3]).abs().max() > 1e-4
        assert not torch.equal(edited, before)
        merged = self.merged(model)
        assert (self.edit(merged) - edited).abs().max() < 1e-4

    def merged(self, model):
        """A copy whose LoRA is folded into the weights by hand: the truth to compare with."""
        from peft.tuners.lora import LoraLayer

        pipe = tiny_sd()
        plain = dict(pipe.unet.named_modules())
        for path, layer in model.pipe.unet.named_modules():
            if isinstance(layer, LoraLayer):
                plain[path].weight += layer.get_delta_weight("default")
        return adapt(pipe, "merged")

    def test_compiled(self):
        """Traced whole, without a graph break; the same edit; steps do not recompile."""
        script = Path(__file__).with_name("compiled_edit.py")
        done = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert "compiled and eager agree" in done.stdout, done.stderr[-2000:]

    def test_ip_adapter_weights_stay_registered(self, model):
        """A processor that is a module is wrapped by a module, so `.to()` still reaches it."""
        unet = model.pipe.unet

        class Weighted(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner, self.weight = inner, nn.Parameter(torch.zeros(1))

            def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
                return self.inner(attn, hidden_states, encoder_hidden_states, **kwargs)

        expected = self.edit(model)
        unet.set_attn_processor({n: Weighted(p) for n, p in unet.attn_processors.items()})
        names = {n for n, _ in unet.named_parameters() if "processor" in n}
        with model.attach([share()], PAIR):
            during = {n for n, _ in unet.named_parameters() if "processor" in n}
            assert len(during) == len(names) == 32
        assert {n for n, _ in unet.named_parameters() if "processor" in n} == names
        assert torch.equal(self.edit(model), expected)

    def test_only_the_first_attention_of_a_module_is_edited(self, model):
        """An IP-Adapter attends a second time, to image tokens: that one is not the text's."""
        unet = model.pipe.unet

        class Twice:
            def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
                q, k, v = (
                    attn.to_q(hidden_states),
                    attn.to_k(hidden_states),
                    attn.to_v(hidden_states),
                )
                q, k, v = (attn.head_to_batch_dim(x, out_dim=4) for x in (q, k, v))
                attention = nn.functional.scaled_dot_product_attention
                seen.append(attention(q, k, v) - attention(q, k, v))
                return attn.to_out[0](attention(q, k, v).transpose(1, 2).flatten(2))

        seen: list[torch.Tensor] = []
        path = "mid_block.attentions.0.transformer_blocks.0.attn1.processor"
        unet.set_attn_processor({**unet.attn_processors, path: Twice()})
        forward(model, [share(Sites("self:mid"))], size=(16, 16))
        assert torch.equal(seen[-1][:3], torch.zeros_like(seen[-1][:3]))
        assert seen[-1][3].abs().max() > 1e-6

    def test_keyword_arguments_still_arrive(self, model):
        """diffusers drops arguments that a processor's signature does not name."""
        unet, seen = model.pipe.unet, []

        class Named:
            def __init__(self, inner):
                self.inner = inner

            def __call__(self, attn, hidden_states, encoder_hidden_states=None, colour=None, **kw):
                seen.append(colour)
                return self.inner(attn, hidden_states, encoder_hidden_states, **kw)

        unet.set_attn_processor({n: Named(p) for n, p in unet.attn_processors.items()})
        x, text = batch(model)
        with model.attach([share()], PAIR) as run, run.at(0, (8, 8)):
            unet(x, 501, text.states, cross_attention_kwargs={"colour": "red"})
        assert seen == ["red"] * 32


def test_text_rows_are_checked(model):
    """One row too many is a wrong layout, not a picture."""
    x, text = batch(model)
    with (
        pytest.raises(UnsupportedModel, match="expected 2 rows"),
        model.attach([share(half="both", tape=None)], TARGET) as run,
        run.at(0, (8, 8)),
    ):
        model.predict(x, 501, Text(text.states))
