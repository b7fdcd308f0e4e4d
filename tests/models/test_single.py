"""Single files in the original layouts: the same model as the folder, or a refusal that helps."""

import json
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.models.single_files import original, write, write_config, write_header

from freeprompt.api import Editor, load
from freeprompt.errors import ConfigError, FreepromptWarning, ModelError, UnsupportedModel
from freeprompt.models import load_pipeline
from freeprompt.models.clip_words import clip_tokenizer
from freeprompt.models.kinds import layout_of
from freeprompt.models.loading import load_sites
from freeprompt.models.places import CONFIGS
from freeprompt.models.single import empty_part
from freeprompt.models.stored import open_weights
from freeprompt.models.tiny import tiny_sd, tiny_sdxl
from freeprompt.models.walk import unet_sites

NAMES = {  # with the class of each pipeline
    "sd1": diffusers.StableDiffusionPipeline,
    "sd2": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "sd1-inpainting": diffusers.StableDiffusionInpaintPipeline,
    "sd2-inpainting": diffusers.StableDiffusionInpaintPipeline,
    "sdxl-inpainting": diffusers.StableDiffusionXLInpaintPipeline,
    "sd1-instruct": diffusers.StableDiffusionInstructPix2PixPipeline,
    "sdxl-instruct": diffusers.StableDiffusionXLInstructPix2PixPipeline,
}
SOURCE, TARGET = "a red dog", "a blue cat"


@dataclass
class Saved:
    pipe: Any
    file: Path
    folder: Path
    config: Path


def build(name):
    family, _, what = name.partition("-")
    inputs = {"": 4, "inpainting": 9, "instruct": 8}[what]
    if family == "sdxl":  # as in SDXL, the widths differ
        plain = tiny_sdxl(sample_size=8, second_width=48, in_channels=inputs)
        more = {"add_watermarker": False}
    else:
        prediction = "v_prediction" if name == "sd2" else "epsilon"
        plain = tiny_sd(sample_size=8, prediction=prediction, in_channels=inputs)
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    parts = {part: module for part, module in plain.components.items() if module is not None}
    pipe = NAMES[name](**parts, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each family as a folder, as a single file, and as configs without weights."""
    found = {}
    for name in NAMES:
        place, pipe = tmp_path_factory.mktemp(name), build(name)
        pipe.save_pretrained(place / "folder")
        found[name] = Saved(
            pipe,
            write(pipe, place / "model.safetensors", open_clip=name.startswith("sd2")),
            place / "folder",
            write_config(pipe, place / "config"),
        )
    return found


@pytest.fixture
def sd1(saved):
    return saved["sd1"]


HALF = [0] * 128 + [255] * 128  # of a gradient: the lower half is white


def photo(mode="RGB"):
    return Image.linear_gradient("L").resize((64, 64)).convert(mode)


def picture(pipe):
    editor = Editor(pipe, name="x")
    how = {
        "text": {"source": SOURCE, "share": 0.5},
        "picture": {"image": photo(), "method": "instruct-pix2pix"},
        "room": {"image": photo(), "method": "fpe-protect", "mask": photo("L").point(HALF)},
    }[editor.model.takes]
    result = editor.edit(TARGET, steps=2, seed=1, **how)
    return [image.tobytes() for image in (result.source, *result.images)]


def refusal(path, kind=ModelError, **options):
    with pytest.raises(kind) as error:
        load_pipeline(path, device="cpu", **options)
    message = str(error.value)
    assert "\n" not in message and "--trust" not in message and "weights_only=False" not in message
    return message


# what loads


@pytest.mark.parametrize("name", NAMES)
def test_a_single_file_draws_what_the_folder_draws(saved, name):
    one = load_pipeline(saved[name].file, config=saved[name].config, device="cpu")
    other = load_pipeline(saved[name].folder, device="cpu")
    assert type(one) is type(other) is NAMES[name]
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if hasattr(other, part):
            ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
            assert ours.keys() == theirs.keys() and not getattr(one, part).training
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert one.scheduler.config.prediction_type == other.scheduler.config.prediction_type
    assert picture(one) == picture(saved[name].pipe)


@pytest.mark.parametrize(
    ("name", "other", "inputs"), [("sd1-inpainting", "sd1", 9), ("sd1", "sd1-inpainting", 4)]
)
def test_input_channels_are_the_files_whatever_the_config_says(saved, name, other, inputs):
    """A config folder of the base model will do for the inpainting model made from it."""
    loaded = load_pipeline(saved[name].file, config=saved[other].config, device="cpu")
    assert loaded.unet.config.in_channels == loaded.unet.conv_in.in_channels == inputs
    assert type(loaded) is NAMES[name]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sd2"])
def test_what_a_file_is_stands_in_its_header(saved, name):
    """SD 2's inpainting model was made from the one that predicts noise, so nothing is unsaid."""
    layout = layout_of(open_weights(saved[name].file))
    family = name.partition("-")[0].replace("sd2", "sd2-base")
    assert (layout.config, layout.note) == (family, "")
    assert layout.pipeline == NAMES[name].__name__


@pytest.mark.parametrize("name", ["sd1", "sd1-instruct", "sd1-inpainting"])
def test_a_file_of_another_size_is_told_before_anything_is_allocated(saved, name):
    message = refusal(saved[name].file)  # tiny weights, and the config of the real SD 1
    inputs = build(name).unet.config.in_channels
    assert "does not fit the config 'sd1'" in message and "--config FOLDER" in message
    assert f"[320, {inputs}, 3, 3]" in message


@pytest.mark.parametrize("name", NAMES)
def test_diffusers_reads_the_same_from_such_a_file(saved, name):
    """The file is what diffusers, too, takes for that layout: its own converter is the judge."""
    theirs = NAMES[name].from_single_file(str(saved[name].file), config=str(saved[name].config))
    theirs.set_progress_bar_config(disable=True)
    ours = load_pipeline(saved[name].file, config=saved[name].config, device="cpu")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if hasattr(ours, part):
            a, b = getattr(ours, part).state_dict(), getattr(theirs, part).state_dict()
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_file_loads_into_an_editor_and_half_precision(sd1):
    editor = load(sd1.file, config=sd1.config, device="cpu", dtype="bfloat16")
    assert editor.pipe.unet.dtype == editor.pipe.vae.dtype == torch.bfloat16
    assert editor.model.name == str(sd1.file)


def test_a_file_of_half_precision_becomes_float32_where_that_is_asked(sd1, tmp_path):
    half = {name: x.half() for name, x in original(sd1.pipe).items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = load_pipeline(tmp_path / "half.safetensors", config=sd1.config, device="cpu")
    assert {x.dtype for x in loaded.unet.parameters()} == {torch.float32}
    assert torch.equal(loaded.unet.conv_in.bias, sd1.pipe.unet.conv_in.bias.half().float())


def test_text_encoders_of_older_files(sd1, tmp_path):
    """Some checkpoints (Anything among them) leave `text_model.` out."""
    weights = {n.replace(".text_model.", "."): x for n, x in original(sd1.pipe).items()}
    save_file(weights, tmp_path / "old.safetensors")
    loaded = load_pipeline(tmp_path / "old.safetensors", config=sd1.config, device="cpu")
    assert picture(loaded) == picture(sd1.pipe)


def test_sd2_says_what_it_predicts_or_is_asked(saved, tmp_path):
    sd2 = saved["sd2"].pipe

    def layout(metadata):
        path = write(sd2, tmp_path / "x.safetensors", open_clip=True, metadata=metadata)
        return layout_of(open_weights(path))

    said = {"modelspec.architecture": "stable-diffusion-v2-512"}
    assert layout(said).config == "sd2-base" and not layout(said).note
    assert layout({"modelspec.prediction_type": "v"}).config == "sd2"
    silent = layout({"format": "pt"})
    assert silent.config == "sd2" and "--config sd2-base" in silent.note


def test_what_sd2_does_not_say_is_warned_of(saved, monkeypatch, tmp_path):
    """With the package's own config the file decides alone; here one of the tiny size."""
    monkeypatch.setattr("freeprompt.models.single.CONFIGS", saved["sd2"].config.parent)
    saved["sd2"].config.rename(saved["sd2"].config.parent / "sd2")
    try:
        with pytest.warns(FreepromptWarning, match="does not say whether it predicts"):
            load_pipeline(saved["sd2"].file, device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_pipeline(saved["sd2"].file, config="sd2", device="cpu")
    finally:
        (saved["sd2"].config.parent / "sd2").rename(saved["sd2"].config)


def test_marks_of_prediction_in_the_file(saved, tmp_path):
    sdxl = saved["sdxl"]
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = write(sdxl.pipe, tmp_path / "v.safetensors", **marks)
    config = load_pipeline(path, config=sdxl.config, device="cpu").scheduler.config
    assert config.prediction_type == "v_prediction" and config.rescale_betas_zero_snr
    assert config.timestep_spacing == "trailing"


def test_sites_of_a_file(sd1):
    assert load_sites(sd1.file, config=sd1.config) == (unet_sites(sd1.pipe.unet), 8)
    sites, side = load_sites(sd1.file)  # by the package's config of SD 1
    assert side == 64 and len([s for s in sites if s.kind == "self"]) == 16


# the package's own configs


PARAMETERS = {  # millions, as published
    "sd1": {"unet": 859.5, "vae": 83.7, "text_encoder": 123.1},
    "sd2": {"unet": 865.9, "vae": 83.7, "text_encoder": 340.4},
    "sd2-base": {"unet": 865.9, "vae": 83.7, "text_encoder": 340.4},
    "sdxl": {"unet": 2567.5, "vae": 83.7, "text_encoder": 123.1, "text_encoder_2": 694.7},
}


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name in PARAMETERS for part in PARAMETERS[name]]
)
def test_configs_have_the_published_sizes(name, part):
    module = empty_part(CONFIGS / name, part)
    count = sum(x.numel() for x in module.parameters())
    assert abs(count / 1e6 - PARAMETERS[name][part]) < 0.06
    assert {x.device.type for x in module.parameters()} == {"meta"}


@pytest.mark.parametrize(("name", "selves"), [("sd1", 16), ("sd2", 16), ("sdxl", 70)])
def test_configs_have_the_known_attention(name, selves):
    kinds = [site.kind for site in unet_sites(empty_part(CONFIGS / name, "unet"))]
    assert kinds.count("self") == kinds.count("cross") == selves


def test_the_vocabulary_is_clips():
    tokenizer = clip_tokenizer()
    ids = tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49408
    padded = tokenizer("A CAT", padding="max_length").input_ids
    assert len(padded) == 77 and padded[:4] == [49406, 320, 2368, 49407] and padded[-1] == 49407
    second = clip_tokenizer("!")
    assert second("a cat", padding="max_length").input_ids[-1] == 0
    assert tokenizer.decode(ids[1:-1]) == "a photo of a cat"


def test_a_file_without_a_tokenizer_beside_it_gets_clips(saved, tmp_path):
    """A config folder of the user's need not hold one."""
    import shutil

    config = Path(shutil.copytree(saved["sd1"].config, tmp_path / "config"))
    shutil.rmtree(config / "tokenizer")
    loaded = load_pipeline(saved["sd1"].file, config=config, device="cpu")
    assert len(loaded.tokenizer) == 49408


# what a file is instead


def tensors(**shapes):
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


IN = "model__diffusion_model__input_blocks__0__0__weight"
OTHERS = {
    "a LoRA": tensors(unet__down__lora_A__weight=(4, 8)),
    "a LoRA, not": tensors(lora_unet_down_blocks_0__lora_down__weight=(4, 8)),
    "a textual-inversion embedding": tensors(emb_params=(2, 32)),
    "a VAE": tensors(
        encoder__conv_in__weight=(8,), decoder__conv_in__weight=(8, 1, 1), a=(1, 1, 1)
    ),
    "a ControlNet": tensors(control_model__time_embed__0__weight=(8,), x=(1, 1, 1)),
    "a T2I-Adapter": tensors(adapter__body__0__weight=(8, 1, 1)),
    "an IP-Adapter": tensors(image_proj__proj__weight=(8, 1, 1)),
    "a text encoder": tensors(text_model__encoder__x=(8, 1, 1)),
    "a UNet in diffusers": tensors(down_blocks__0__x=(1,), conv_in__weight=(8, 4, 3, 3)),
}
UNSUPPORTED = {
    "a Stable Diffusion 3": tensors(model__diffusion_model__joint_blocks__0__x=(8, 1, 1)),
    "a FLUX model": tensors(double_blocks__0__img_attn__qkv__weight=(8, 8, 1)),
    "a depth-to-image model (5": tensors(**{IN: (8, 5, 3, 3)}),
    "an upscaler (7": tensors(**{IN: (8, 7, 3, 3)}),
    "a model with 16 input channels": tensors(**{IN: (8, 16, 3, 3)}),
    "a model with 0 input channels": tensors(**{IN: (8,)}, x=(1, 1, 1)),
    "noise levels of EDM": tensors(**{IN: (8, 8, 3, 3)}, edm_vpred__sigma_max=()),
    "an SDXL refiner": tensors(
        **{IN: (8, 4, 3, 3)}, conditioner__embedders__0__model__ln_final__weight=(8,)
    ),
    "a motion module": tensors(down_blocks__0__motion_modules__0__x=(8, 1, 1)),
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_files_of_another_kind_are_named(what, tmp_path):
    save_file(OTHERS[what], tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors")
    assert what in message and "not a checkpoint of Stable Diffusion 1, 2 or XL. Give" in message


@pytest.mark.parametrize("what", list(UNSUPPORTED))
def test_models_that_cannot_be_edited_with_are_named(what, tmp_path):
    save_file(UNSUPPORTED[what], tmp_path / "x.safetensors")
    assert what in refusal(tmp_path / "x.safetensors", UnsupportedModel)


def test_a_file_of_unknown_tensors_shows_some_of_them(tmp_path):
    save_file(tensors(wte__weight=(2, 2, 2), b=(1, 1, 1)), tmp_path / "gpt.safetensors")
    message = refusal(tmp_path / "gpt.safetensors")
    assert "holds 2 tensors" in message and "wte.weight" in message


def test_a_unet_alone_is_not_enough(sd1, tmp_path):
    weights = original(sd1.pipe)
    path = tmp_path / "x.safetensors"
    save_file({n: x for n, x in weights.items() if n.startswith("model.")}, path)
    assert "without a text encoder" in refusal(path)
    save_file({n: x for n, x in weights.items() if not n.startswith("first")}, path)
    message = refusal(path, config=sd1.config)
    assert "lacks" in message and "its vae" in message and "without a VAE" in message


# damaged and hostile files


def test_a_truncated_file(sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(sd1.file.read_bytes()[:-100])
    assert "is damaged" in refusal(path)


def test_a_header_that_claims_more_than_the_file_holds(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    assert "is damaged" in refusal(write_header(tmp_path / "bomb.safetensors", header))
    (tmp_path / "long.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{")
    assert "is damaged" in refusal(tmp_path / "long.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [10**9] * 4},
        {"layers_per_block": 10**6},
        {"block_out_channels": "many"},
        {"down_block_types": ["NoSuchBlock"] * 4},
        {"cross_attention_dim": 10**12},
    ],
)
@pytest.mark.parametrize("where", ["config", "folder"])
def test_configs_that_ask_for_absurd_things(sd1, tmp_path, where, change):
    """Nothing of that size is ever allocated, whether it comes with a file or in a folder."""
    import shutil

    copy = Path(shutil.copytree(getattr(sd1, where), tmp_path / "copy"))
    path = copy / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if where == "config":
        refusal(sd1.file, config=copy)
    else:
        refusal(copy)


@pytest.mark.parametrize("content", [b"", b"short", b"<html><body>Not found</body></html>"])
def test_what_is_no_file_of_weights(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "holds no weights" in refusal(path)


def test_a_pointer_of_git_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    assert "git lfs pull" in refusal(path)


class TestPickles:
    @pytest.fixture
    def ckpt(self, sd1, tmp_path):
        torch.save({"state_dict": original(sd1.pipe), "epoch": 3}, tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    def test_refused_by_default(self, ckpt, sd1):
        message = refusal(ckpt, config=sd1.config)
        assert "is a pickle" in message and "--allow-pickle" in message

    def test_whatever_their_name(self, ckpt, tmp_path):
        renamed = ckpt.rename(tmp_path / "model.safetensors")
        assert "is a pickle" in refusal(renamed)

    def test_allowed(self, ckpt, sd1):
        loaded = load_pipeline(ckpt, config=sd1.config, device="cpu", allow_pickle=True)
        assert picture(loaded) == picture(sd1.pipe)

    def test_code_is_never_run(self, tmp_path):
        mark = tmp_path / "ran"

        class Bomb:
            def __reduce__(self):
                return Path.touch, (mark,)

        torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "bomb.ckpt")
        (tmp_path / "bare.pt").write_bytes(pickle.dumps(Bomb()))
        for name in ("bomb.ckpt", "bare.pt"):
            assert "could run code" in refusal(tmp_path / name, allow_pickle=True)
        assert not mark.exists()

    def test_without_tensors(self, tmp_path):
        torch.save([1, 2, 3], tmp_path / "x.pt")
        assert "no tensors by name" in refusal(tmp_path / "x.pt", allow_pickle=True)


# options


def test_options_that_would_go_unheard(sd1):
    assert "variant 'fp16' chooses" in refusal(sd1.file, ConfigError, variant="fp16")
    assert "config goes with a single file" in refusal(sd1.folder, ConfigError, config="sd1")
    assert "neither sd1, sd2, sd2-base, sdxl" in refusal(sd1.file, ConfigError, config="sd9")
