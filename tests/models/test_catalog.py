"""Models by name, folder and Hub id: what loads, what does not, and what is said then."""

import json
import resource
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from freeprompt.errors import ConfigError, ModelError, UnknownModel
from freeprompt.models import CATALOG, Entry, adapt, load_pipeline
from freeprompt.models.devices import resolve_device, resolve_dtype
from freeprompt.models.loading import load_sites
from freeprompt.models.tiny import tiny_sd
from freeprompt.models.unet import latent_side
from freeprompt.models.walk import unet_sites

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd(prediction="v_prediction", sample_size=8)


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    """A tiny model in diffusers layout."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="module")
def by_name():
    return load_pipeline("tiny-sd", device="cpu")


def answer(pipe):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = pipe.encode_prompt("a red dog", "cpu", 1, False)[0]
        return pipe.unet(x, torch.tensor(500), encoder_hidden_states=text).sample


def refusal(model, kind=ModelError, **more):
    with pytest.raises(kind) as error:
        load_pipeline(model, device="cpu", **more)
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    return message


# what loads


def test_a_folder_that_was_saved_gives_identical_answers(pipe, saved):
    loaded = load_pipeline(saved, device="cpu")
    for part in PARTS:
        ours, theirs = getattr(loaded, part).state_dict(), getattr(pipe, part).state_dict()
        assert ours.keys() == theirs.keys() and not getattr(loaded, part).training
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert loaded.tokenizer("a catfish").input_ids == pipe.tokenizer("a catfish").input_ids
    assert torch.equal(answer(loaded), answer(load_pipeline(saved, device="cpu")))
    assert torch.allclose(answer(loaded), answer(pipe), rtol=0, atol=1e-5)
    loaded.unet = deepcopy(loaded.unet)  # a file's weights lie askew in memory: other rounding
    assert torch.equal(answer(loaded), answer(pipe))


def test_a_folder_may_be_given_as_text_and_in_half_precision(saved):
    loaded = load_pipeline(str(saved), device="cpu", dtype="bfloat16")
    assert {getattr(loaded, part).dtype for part in PARTS} == {torch.bfloat16}


def test_a_folder_comes_before_the_hub(saved, monkeypatch):
    """`owner/name` that exists as a folder is that folder."""
    monkeypatch.chdir(saved.parent.parent)
    name = f"{saved.parent.name}/{saved.name}"
    assert load_pipeline(name, device="cpu").unet.config.sample_size == 8


def test_a_catalogue_name_comes_before_a_folder(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "tiny-sd")
    monkeypatch.chdir(tmp_path)
    assert load_pipeline("tiny-sd", device="cpu").unet.config.sample_size == 16


def test_tiny_models_load_by_name(by_name):
    other = load_pipeline("tiny-sd2", device="cpu")
    assert by_name.scheduler.config.prediction_type == "epsilon"
    assert other.scheduler.config.prediction_type == "v_prediction"
    for loaded in (by_name, other):
        assert {getattr(loaded, part).dtype for part in PARTS} == {torch.float32}
        assert {getattr(loaded, part).device.type for part in PARTS} == {"cpu"}


def test_each_load_is_a_model_of_its_own(by_name):
    again = load_pipeline("tiny-sd", device="cpu").unet
    assert again is not by_name.unet
    assert torch.equal(again.conv_in.weight, by_name.unet.conv_in.weight)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_may_be_chosen(dtype):
    loaded = load_pipeline("tiny-sd", device="cpu", dtype=dtype)
    assert {getattr(loaded, part).dtype for part in PARTS} == {getattr(torch, dtype)}


# devices and dtypes


def test_automatic_choices():
    device = resolve_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else device.type)
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("mps")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float16
    assert resolve_dtype("float32", torch.device("cuda")) == torch.float32
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "xla", "hpu", "cuda:99"])
def test_a_device_that_cannot_be_used_is_a_config_error(device):
    with pytest.raises(ConfigError) as error:
        load_pipeline("tiny-sd", device=device)
    message = str(error.value)
    assert message.startswith(f"Device {device!r} cannot be used here (")
    assert "'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'" in message and "\n" not in message


@pytest.mark.parametrize("dtype", ["fp16", "half", "", "Float32", "int8", torch.float16, None])
def test_a_dtype_that_does_not_exist_is_a_config_error(dtype):
    message = refusal("tiny-sd", ConfigError, dtype=dtype)
    assert message == f"dtype must be auto, float32, float16, bfloat16; got {dtype!r}."


def test_device_and_dtype_are_checked_before_anything_is_loaded():
    assert "dtype" in refusal("no such model", ConfigError, dtype="fp16")


# what does not load


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tiny_sd", "'tiny-sd'"), ("sd-15", "'sd-1.5'"), ("emojisd", "'emoji-sd'"), ("zzzz", None)],
)
def test_an_unknown_name_lists_the_known_ones_with_a_hint(name, hint):
    message = refusal(name, UnknownModel)
    assert message.startswith(f"Unknown model {name!r}")
    assert (f"did you mean {hint}?" in message) == (hint is not None)
    assert ", ".join(sorted(CATALOG)) in message and "Hub id (owner/name)" in message


@pytest.mark.parametrize("path", ["/no/such/folder", "../no/such/folder", "a/b/c", "bad name/x"])
def test_a_path_that_leads_nowhere_is_an_unknown_model(path):
    assert refusal(path, UnknownModel).startswith(f"Unknown model {path!r}")


@pytest.mark.parametrize("path", ["./missing", "../missing", "~/no-such-model"])
def test_a_path_of_one_part_is_no_hub_id(path):
    assert "Hub:" not in refusal(path, UnknownModel)


def test_a_name_too_long_for_a_file_is_an_unknown_model():
    assert refusal("x" * 5000, UnknownModel).startswith("Unknown model 'xxx")


def test_a_folder_without_an_index_is_no_pipeline(tmp_path):
    message = refusal(tmp_path)
    assert repr(str(tmp_path)) in message and "no model_index.json" in message
    assert "save_pretrained()" in message


def test_an_empty_file_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    message = refusal(path)
    assert f"{str(path)!r} holds no weights" in message and "download" in message


def test_pickled_weights_are_refused(pipe, tmp_path):
    """A .bin file can run code when it is read."""
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    encoder = tmp_path / "text_encoder"  # transformers has forgotten how to write one
    (encoder / "model.safetensors").unlink()
    torch.save(pipe.text_encoder.state_dict(), encoder / "pytorch_model.bin")
    assert len(list(tmp_path.rglob("*.bin"))) == 3 and not list(tmp_path.rglob("*.safetensors"))
    message = refusal(tmp_path)
    assert repr(str(tmp_path)) in message and "is a pickle" in message
    assert "--allow-pickle" in message
    allowed = load_pipeline(tmp_path, device="cpu", allow_pickle=True)
    assert torch.equal(allowed.unet.conv_in.weight, pipe.unet.conv_in.weight)
    assert torch.equal(answer(allowed), answer(pipe))


def test_a_pickle_in_a_folder_runs_no_code(saved, copy, tmp_path):
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (mark,)

    unet = copy / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Bomb()}, unet / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError):
        load_pipeline(copy, device="cpu", allow_pickle=True)
    assert not mark.exists()


def test_code_in_a_folder_is_not_run(copy, tmp_path):
    """A pipeline class of its own is Python code beside the weights."""
    mark = tmp_path / "ran"
    (copy / "pipeline.py").write_text(f"open({str(mark)!r}, 'w')\n")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(
        json.dumps({**index, "_class_name": ["pipeline", "Evil"]})
    )
    refusal(copy)
    assert not mark.exists()


def rename(folder, part, stem, name):
    next((folder / part).glob("*.safetensors")).rename(folder / part / f"{stem}.{name}")


@pytest.fixture
def half(copy):
    """A folder of which all weights are of variant fp16."""
    rename(copy, "unet", "diffusion_pytorch_model", "fp16.safetensors")
    rename(copy, "vae", "diffusion_pytorch_model", "fp16.safetensors")
    rename(copy, "text_encoder", "model", "fp16.safetensors")
    return copy


def test_a_variant_is_loaded_and_has_to_be_named(pipe, half):
    loaded = load_pipeline(half, device="cpu", variant="fp16")
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight)
    message = refusal(half)
    assert "diffusion_pytorch_model.fp16.safetensors" in message and "--variant" in message


def test_a_variant_that_is_not_there_names_those_that_are(copy, half):
    shutil.copy(
        half / "unet" / "diffusion_pytorch_model.fp16.safetensors",
        half / "unet" / "diffusion_pytorch_model.safetensors",
    )
    assert "There are: the plain one, fp16" in refusal(half, variant="bf16") or "no weights" in (
        refusal(half, variant="bf16")
    )


def test_weights_in_several_files(copy):
    """Large models are cut into shards."""
    unet = copy / "unet"
    whole = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(whole)
    places = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
        save_file({name: whole[name] for name in part}, unet / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    path = unet / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    loaded = load_pipeline(copy, device="cpu").unet
    assert torch.equal(loaded.conv_in.weight, whole["conv_in.weight"])


def test_a_folder_as_older_libraries_wrote_it(pipe, copy):
    """Stable Diffusion 1.5 on the Hub has such names in its VAE and its text encoder."""
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(path)
    for new, name in old.items():
        a, b = f"attentions.0.{new}.", f"attentions.0.{name}."
        weights = {key.replace(a, b): x for key, x in weights.items()}
    assert any(".query." in name for name in weights)
    save_file(weights, path, metadata={"format": "pt"})
    path = copy / "text_encoder" / "model.safetensors"
    names = {f"text_model.{n.removeprefix('text_model.')}": x for n, x in load_file(path).items()}
    names["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(names, path, metadata={"format": "pt"})
    loaded = load_pipeline(copy, device="cpu")
    for part in PARTS:
        ours, theirs = getattr(loaded, part).state_dict(), getattr(pipe, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_weight_of_another_shape_is_told_before_anything_is_loaded(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"] = torch.zeros(7)
    save_file(weights, path, metadata={"format": "pt"})
    assert "conv_in.bias of unet has the shape [7], and its config asks for [16]" in refusal(copy)


@pytest.fixture
def cached(saved, tmp_path, monkeypatch):
    """A copy of the model in the Hub's cache, as an earlier download leaves it."""
    home = tmp_path / "models--someone--tiny"
    shutil.copytree(saved, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("offline", [True, False])
def test_what_was_downloaded_before_loads_without_a_network(pipe, cached, offline):
    loaded = load_pipeline("someone/tiny", device="cpu", offline=offline)
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight)
    assert load_sites("someone/tiny", offline=offline)[1] == 8


def test_offline_says_what_was_not_downloaded():
    assert "could not be fetched from the Hub" in refusal("someone/other", offline=True)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_corrupt_weights_are_a_model_error(copy, part):
    weights = next((copy / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    message = refusal(copy)
    assert f"The model {str(copy)!r} could not be read from that folder: " in message
    assert "dtype" not in message  # it is the file that is wrong


@pytest.mark.parametrize(
    "lost", ["unet/config.json", "vae", "scheduler", "tokenizer", "tokenizer/tokenizer.json"]
)
def test_a_folder_with_a_missing_part_is_a_model_error(copy, lost):
    """transformers makes up a tokenizer without words where there is none."""
    shutil.rmtree(copy / lost) if (copy / lost).is_dir() else (copy / lost).unlink()
    assert f"The model {str(copy)!r} could not be read" in refusal(copy)


@pytest.mark.parametrize("part", PARTS)
def test_incomplete_weights_are_a_model_error(copy, part):
    """transformers would fill the gap with random numbers, others at every load."""
    path = next((copy / part).glob("*.safetensors"))
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("weight"))
    save_file({n: x for n, x in weights.items() if n != name}, path, metadata={"format": "pt"})
    message = refusal(copy)
    bare = name.removeprefix("text_model.")  # which transformers 5.0 leaves out
    assert repr(str(copy)) in message and part in message and bare in message


@pytest.mark.parametrize("text", ["", "{", '{"_class_name": "NoSuchPipeline"}', "[]"])
def test_an_index_that_cannot_be_read_is_a_model_error(copy, text):
    (copy / "model_index.json").write_text(text)
    assert f"The model {str(copy)!r} could not be read" in refusal(copy)


def test_a_hub_id_without_a_network_is_one_sentence(capfd):
    """conftest switches the network off; only the message may be shown, no log of the attempt."""
    message = refusal("someone/some-model")
    assert "The model 'someone/some-model' could not be fetched from the Hub: " in message
    assert len(message) < 600
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


def test_a_long_reason_is_not_cut_inside_a_word():
    """What follows the reason must read as a sentence of its own."""
    reason, _, rest = refusal("someone/some-model").partition(" freeprompt reads safetensors")
    assert rest and reason.endswith((".", "…", "..."))


def test_weights_that_are_not_installed_are_said_to_be_missing(monkeypatch, tmp_path):
    entry = Entry(summary="", licence="", size=64, source=tmp_path / "gone")
    monkeypatch.setitem(CATALOG, "gone-sd", entry)
    assert not entry.embedded
    assert "weights of 'gone-sd' are missing from this installation" in refusal("gone-sd")


# the catalogue itself


def test_the_catalogue_knows_what_is_here(saved):
    assert CATALOG["tiny-sd"].embedded and CATALOG["tiny-sd2"].embedded
    assert not CATALOG["sd-1.5"].embedded
    assert Entry(summary="", licence="", size=64, source=saved).embedded
    for name, entry in CATALOG.items():
        assert entry.summary and entry.licence and entry.size % 8 == 0, name
        assert 1 <= entry.steps <= 50 and entry.guidance >= 0, name
        assert not isinstance(entry.source, str) or entry.source.count("/") == 1


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.embedded])
def test_what_the_catalogue_says_of_a_model_is_so(name):
    """Family and size are what the adapter finds in it."""
    model = adapt(load_pipeline(name, device="cpu"), name)
    assert model.native_size == CATALOG[name].size
    xl = type(model).__name__ == "SDXLModel"
    assert xl == (CATALOG[name].family == "sdxl")


# sites without weights


def test_sites_by_name_are_those_of_the_model(by_name):
    unet = by_name.unet
    assert load_sites("tiny-sd") == (unet_sites(unet), latent_side(unet.config))


def test_sites_of_a_folder_need_its_config_only(pipe, copy):
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    assert load_sites(copy) == (unet_sites(pipe.unet), 8) == load_sites(str(copy))


def test_sites_of_a_large_model_take_no_memory(tmp_path):
    """Stable Diffusion 1.5's UNet has 3.4 GB of weights; its sites are known without them."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=8,
            cross_attention_dim=768,
        )
    unet.save_config(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Whatever"}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sites, side = load_sites(tmp_path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert side == 64 and [site.kind for site in sites].count("self") == 16
    assert grown * (1 if sys.platform == "darwin" else 1024) < 500e6


def test_sites_of_what_has_no_unet_are_refused(copy):
    shutil.rmtree(copy / "unet")
    with pytest.raises(ModelError, match="could not be read from that folder"):
        load_sites(copy)
    with pytest.raises(UnknownModel, match="Unknown model 'zzzz'"):
        load_sites("zzzz")
    with pytest.raises(ModelError, match="could not be fetched from the Hub"):
        load_sites("someone/some-model")
