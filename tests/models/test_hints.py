"""ControlNet and T2I-Adapter: as in diffusers, loaded as safely as a model, and without a trace."""

import json

import pytest
import torch
from diffusers import (
    ControlNetUnionModel,
    DDIMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image
from safetensors.torch import save_file
from tests.models.hint_nets import tiny_adapter, tiny_controlnet

from freeprompt.api import Editor
from freeprompt.core import TARGET, denoise
from freeprompt.errors import ConfigError, ModelError, UnknownModel, UnsupportedModel
from freeprompt.models import adapt
from freeprompt.models.hint_files import load_network
from freeprompt.models.hints import Hint, Hints, as_network
from freeprompt.models.ldm import adapter_origin, control_origin
from freeprompt.models.offload import offload
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

PROMPT = "a blue cat"
STEPS, GUIDANCE = 4, 7.5


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd(sample_size=8)


@pytest.fixture(scope="module")
def xl():
    return tiny_sdxl(sample_size=16)


def drawing(size=(64, 64)):
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    picture.paste((200, 30, 60), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    return picture


def noise(side=8):
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(3))


def hinted(pipe, *networks, steps=STEPS, image=None, weight=1.0, window=(0.0, 1.0)):
    """The model with a control image for each network."""
    model = adapt(pipe, "x")
    hints = tuple(
        Hint(network=as_network(net), image=image or drawing(), told={}, weight=weight,
             window=window)
        for net in networks
    )  # fmt: skip
    timesteps = model.schedule(steps).timesteps
    return model.seeing(hints=Hints(hints=hints, timesteps=timesteps, unit=model.granularity))


@torch.no_grad()
def drawn(model, side=8):
    """The latent of a plain generation by our loop."""
    done = denoise(
        model,
        model.schedule(STEPS),
        {"target": noise(side)},
        text={"target": model.encode_text([PROMPT])},
        null=model.encode_text([""]),
        rows=TARGET,
        guidance=GUIDANCE,
    )
    return done.state["target"]


def stock(kind, pipe, side=8, **arguments):
    """The same by a stock pipeline of diffusers."""
    nets = {name: arguments.pop(name) for name in ("controlnet", "adapter") if name in arguments}
    names = ("vae", "text_encoder", "tokenizer", "unet", "text_encoder_2", "tokenizer_2")
    parts = {name: getattr(pipe, name) for name in names if hasattr(pipe, name)}
    parts["scheduler"] = DDIMScheduler.from_config(pipe.scheduler.config)
    xl = hasattr(pipe, "text_encoder_2")
    extra = {} if xl else {"safety_checker": None, "requires_safety_checker": False}
    if not xl:
        extra["feature_extractor"] = None
    whole = kind(**parts, **extra, **nets)
    whole.set_progress_bar_config(disable=True)
    return whole(
        PROMPT,
        image=drawing((8 * side, 8 * side)),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise(side),
        output_type="latent",
        **arguments,
    ).images


class TestAsInDiffusers:
    @pytest.mark.parametrize(("weight", "window"), [(1.0, (0, 1)), (0.6, (0.25, 1)), (2, (0, 0.5))])
    def test_controlnet(self, pipe, weight, window):
        net = tiny_controlnet(pipe)
        theirs = stock(
            StableDiffusionControlNetPipeline,
            pipe,
            controlnet=net,
            controlnet_conditioning_scale=float(weight),
            control_guidance_start=float(window[0]),
            control_guidance_end=float(window[1]),
        )
        ours = drawn(hinted(pipe, net, weight=weight, window=window))
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, drawn(adapt(pipe, "x")), atol=1e-2)

    def test_two_controlnets(self, pipe):
        nets = [tiny_controlnet(pipe, seed) for seed in (0, 1)]
        images = {"controlnet": nets, "controlnet_conditioning_scale": [1.0, 1.0]}
        parts = {n: getattr(pipe, n) for n in ("vae", "text_encoder", "tokenizer", "unet")}
        whole = StableDiffusionControlNetPipeline(
            **parts,
            scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
            controlnet=images["controlnet"],
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        whole.set_progress_bar_config(disable=True)
        theirs = whole(
            PROMPT,
            image=[drawing(), drawing()],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=noise(),
            output_type="latent",
        ).images
        assert torch.allclose(drawn(hinted(pipe, *nets)), theirs, atol=1e-5)
        assert [n.kind for n in adapt(whole, "x").networks] == ["controlnet"] * 2

    @pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
    def test_adapter(self, pipe, kind):
        net = tiny_adapter(pipe, kind=kind)
        theirs = stock(
            StableDiffusionAdapterPipeline, pipe, adapter=net, adapter_conditioning_scale=0.8
        )
        ours = drawn(hinted(pipe, net, weight=0.8))
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, drawn(adapt(pipe, "x")), atol=1e-2)

    def test_adapter_that_reads_grey(self, pipe):
        net = tiny_adapter(pipe, in_channels=1)
        parts = {n: getattr(pipe, n) for n in ("vae", "text_encoder", "tokenizer", "unet")}
        whole = StableDiffusionAdapterPipeline(
            **parts,
            scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
            adapter=net,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        whole.set_progress_bar_config(disable=True)
        theirs = whole(
            PROMPT,
            image=drawing().convert("L"),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=noise(),
            output_type="latent",
        ).images
        assert torch.allclose(drawn(hinted(pipe, net)), theirs, atol=1e-5)

    def test_controlnet_of_sdxl(self, xl):
        net = tiny_controlnet(xl)
        theirs = stock(StableDiffusionXLControlNetPipeline, xl, 16, controlnet=net)
        ours = drawn(hinted(xl, net, image=drawing((128, 128))), 16)
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, drawn(adapt(xl, "x"), 16), atol=1e-2)

    def test_adapter_of_sdxl(self, xl):
        net = tiny_adapter(xl, kind="full_adapter_xl")
        theirs = stock(StableDiffusionXLAdapterPipeline, xl, 16, adapter=net)
        ours = drawn(hinted(xl, net, image=drawing((128, 128))), 16)
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, drawn(adapt(xl, "x"), 16), atol=1e-2)


class TestWhatItAdds:
    def test_both_at_once_are_not_one_of_them(self, pipe):
        control, adapter = tiny_controlnet(pipe), tiny_adapter(pipe)
        both = drawn(hinted(pipe, control, adapter))
        for one in (control, adapter):
            assert not torch.allclose(both, drawn(hinted(pipe, one)), atol=1e-3)

    def test_weight_zero_and_a_window_without_a_step_are_none_at_all(self, pipe):
        plain, net = drawn(adapt(pipe, "x")), tiny_controlnet(pipe)
        assert torch.equal(drawn(hinted(pipe, net, weight=0.0)), plain)
        assert torch.equal(drawn(hinted(pipe, net, window=(0.3, 0.4))), plain)
        assert torch.equal(drawn(hinted(pipe, tiny_adapter(pipe), weight=0.0)), plain)

    def test_it_acts_at_every_timestep_that_there_is(self, pipe):
        """Trainings and few-step methods go below the last timestep of the plain steps."""
        seen = hinted(pipe, tiny_controlnet(pipe)).hints
        late = Hints(hints=seen.hints, timesteps=(999, 749, 499, 249), unit=seen.unit)
        states = torch.zeros(1, 77, 32)
        for timestep in (999, 249, 199, 0):
            assert late.added(noise(), torch.tensor(timestep), states, {}), timestep

    def test_a_silent_controlnet_is_none_at_all(self, pipe):
        plain = drawn(adapt(pipe, "x"))
        assert torch.equal(drawn(hinted(pipe, tiny_controlnet(pipe, loud=0))), plain)

    def test_all_rows_get_the_same_for_the_same_latent(self, pipe):
        """Equal rows of a batch are answered equally, wherever they stand: nobody is left out."""
        model = hinted(pipe, tiny_controlnet(pipe), tiny_adapter(pipe))
        text = model.encode_text([PROMPT])
        with torch.no_grad():
            alone = model.predict(noise(), 500, text)
            four = model.predict(noise().expand(4, -1, -1, -1), 500, type(text).stack([text] * 4))
        assert all(torch.allclose(row, alone[0], atol=1e-5) for row in four)

    def test_the_control_image_matters(self, pipe):
        net = tiny_controlnet(pipe)
        other = drawing().rotate(90)
        assert not torch.allclose(
            drawn(hinted(pipe, net)), drawn(hinted(pipe, net, image=other)), atol=1e-3
        )

    def test_another_shape_and_another_unit_are_refused(self, pipe, xl):
        with pytest.raises(ConfigError, match=r"64 x 32.*64 x 64.*another shape"):
            drawn(hinted(pipe, tiny_controlnet(pipe), image=drawing((64, 32))))
        net = tiny_adapter(xl, kind="full_adapter_xl")
        model = hinted(xl, net)
        with pytest.raises(ConfigError, match="multiples of 16"):
            drawn(model, 9)

    def test_the_model_is_not_changed(self, pipe):
        model = adapt(pipe, "x")
        made = model.seeing(hints=None)
        assert made is not model and made.pipe is model.pipe and model.hints is None


class TestFiles:
    def same(self, found, net):
        mine, theirs = found.module.state_dict(), net.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        return dict(found.module.config)

    @pytest.mark.parametrize("kind", ["controlnet", "adapter"])
    def test_folders(self, pipe, tmp_path, kind):
        net = (tiny_controlnet if kind == "controlnet" else tiny_adapter)(pipe)
        net.save_pretrained(tmp_path)
        found = load_network(tmp_path, kind, pipe)
        self.same(found, net)
        assert found.name == str(tmp_path) and not found.module.training
        assert len(found.fingerprint) == 16

    def test_it_lies_where_the_denoiser_computes(self, tmp_path):
        """Under CPU offload that is not where the denoiser's weights wait."""
        pipe = tiny_sd(sample_size=8)
        tiny_controlnet(pipe).save_pretrained(tmp_path)
        offload(pipe, "sequential", torch.device("meta"))  # stands for an accelerator
        assert pipe.unet.device.type == "cpu"
        assert load_network(tmp_path, "controlnet", pipe).module.device.type == "meta"

    def test_the_cache_of_the_hub(self, pipe, tmp_path, monkeypatch):
        net = tiny_controlnet(pipe)
        home = tmp_path / "models--owner--net"
        net.save_pretrained(home / "snapshots" / "abc")
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("abc")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        self.same(load_network("owner/net", "controlnet", pipe, offline=True), net)
        with pytest.raises(ModelError, match="could not be fetched"):
            load_network("owner/other", "controlnet", pipe, offline=True)

    @pytest.mark.parametrize("family", ["sd", "xl"])
    @pytest.mark.parametrize("original", [False, True])
    def test_controlnets_in_one_file(self, pipe, xl, tmp_path, original, family):
        base = pipe if family == "sd" else xl
        net = tiny_controlnet(base)
        weights = net.state_dict()
        if original:
            weights = {control_origin(n, net.config).names[0]: x for n, x in weights.items()}
            assert "control_model.zero_convs.0.0.weight" in weights
            assert "control_model.input_hint_block.14.weight" in weights
        save_file(weights, tmp_path / "net.safetensors")
        found = load_network(tmp_path / "net.safetensors", "controlnet", base)
        config = self.same(found, net)
        assert config["conditioning_embedding_out_channels"] == (4, 8, 12, 16)

    @pytest.mark.parametrize("original", [False, True])
    def test_adapters_in_one_file(self, pipe, xl, tmp_path, original):
        for base, kind in ((pipe, "full_adapter"), (xl, "full_adapter_xl")):
            net = tiny_adapter(base, kind=kind)
            weights = net.state_dict()
            if original:
                weights = {adapter_origin(n, 2).names[0]: x for n, x in weights.items()}
                assert {"conv_in.weight", "body.1.block2.weight"} <= set(weights)
            save_file(weights, tmp_path / "net.safetensors")
            config = self.same(load_network(tmp_path / "net.safetensors", "adapter", base), net)
            assert config["adapter_type"] == kind

    def test_what_cannot_be_used(self, pipe, xl, tmp_path):
        good, other = tmp_path / "good", tmp_path / "other"
        tiny_controlnet(pipe).save_pretrained(good)
        tiny_adapter(pipe).save_pretrained(other)
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
        refusals = [
            ("nowhere", "controlnet", pipe, UnknownModel, "There is no ControlNet 'nowhere'"),
            (other, "controlnet", pipe, ModelError, "holds a T2IAdapter.*--adapter"),
            (good, "adapter", pipe, ModelError, "holds a ControlNetModel.*--controlnet"),
            (good, "controlnet", xl, ModelError, "made for another family"),
            (other, "adapter", xl, ModelError, "made for another family"),
            (tmp_path / "x.safetensors", "controlnet", pipe, ModelError, "is no ControlNet"),
            (tmp_path / "x.safetensors", "adapter", pipe, ModelError, "is no full T2I-Adapter"),
            (tmp_path / "x.pt", "controlnet", pipe, ModelError, "is a pickle"),
            (tmp_path, "controlnet", pipe, ModelError, "no config.json"),
        ]
        for source, kind, base, error, match in refusals:
            with pytest.raises(error, match=match):
                load_network(source, kind, base)

    def test_a_folder_that_lacks_weights(self, pipe, tmp_path):
        net = tiny_controlnet(pipe)
        net.save_pretrained(tmp_path)
        weights = net.state_dict()
        del weights["conv_in.weight"]
        save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
        with pytest.raises(ModelError, match=r"lacks 1 weights of ControlNet, such as conv_in"):
            load_network(tmp_path, "controlnet", pipe)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(
            json.dumps({**config, "block_out_channels": [2**20] * 4})
        )
        with pytest.raises(ModelError, match=r"cannot be used"):
            load_network(tmp_path, "controlnet", pipe)

    def test_other_classes_are_refused_by_name(self, pipe):
        with pytest.raises(UnsupportedModel, match="ControlNetUnionModel is no network"):
            as_network(ControlNetUnionModel.__new__(ControlNetUnionModel))
        with pytest.raises(UnsupportedModel, match="pools its answer"):
            as_network(tiny_controlnet(pipe, global_pool_conditions=True))
        whole = Editor(pipe)
        with pytest.raises(ModelError, match="another family"):
            from freeprompt.models.hints import check_network

            check_network(as_network(tiny_controlnet(tiny_sdxl(sample_size=8))), whole.pipe.unet,
                          "x")  # fmt: skip
