"""LoRA and textual inversion: they change the picture as they should, and leave no trace."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from freeprompt.api import Editor
from freeprompt.errors import ConfigError, FreepromptWarning, ModelError
from freeprompt.models import adapt, adapted, load_pipeline, restored
from freeprompt.models.adapters import parse_lora
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.text import learned_words, spelled_out
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

SOURCE, TARGET = "a red dog", "a blue cat"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd(sample_size=8)


@pytest.fixture(scope="module")
def xl():
    return tiny_sdxl(sample_size=8, second_width=48)


def lora_weights(pipe, seed, strength=0.3, rank=2):
    """A LoRA over all attention of a UNet, as diffusers writes one."""
    draw, found = torch.Generator().manual_seed(seed), {}
    for name, module in pipe.unet.named_modules():
        if name.endswith(TARGETS) and isinstance(module, torch.nn.Linear):
            down = torch.randn(rank, module.in_features, generator=draw)
            up = torch.randn(module.out_features, rank, generator=draw) * strength
            found[f"unet.{name}.lora_A.weight"] = down
            found[f"unet.{name}.lora_B.weight"] = up
    return found


@pytest.fixture(scope="module")
def files(pipe, xl, tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    for i in range(2):
        save_file(lora_weights(pipe, i), place / f"{i}.safetensors")
    save_file(lora_weights(xl, 0), place / "xl.safetensors")
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randn(3, 32, generator=draw)
    save_file({"<sks>": vectors}, place / "sks.safetensors")
    save_file({"emb_params": vectors[:1].clone()}, place / "owl.safetensors")
    save_file(
        {"clip_l": vectors, "clip_g": torch.randn(3, 48, generator=draw)},
        place / "both.safetensors",
    )
    torch.save({"name": "<sks>", "string_to_param": {"*": vectors}}, place / "old.pt")
    return place


def picture(pipe, target=TARGET, **options):
    result = Editor(pipe, name="x").edit(target, source=SOURCE, steps=2, **options)
    return result.images[0].tobytes()


def noise(pipe, prompt=TARGET):
    model = adapt(pipe, "x")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(x, 500, model.encode_text([prompt]))


def merged(pipe, *pairs):
    """A copy of a pipeline whose weights have been changed by hand: W + weight * up @ down."""
    other = copy.deepcopy(pipe.unet)
    modules = dict(other.named_modules())
    for weights, weight in pairs:
        for name, down in weights.items():
            if name.endswith("lora_A.weight"):
                up = weights[name.replace("lora_A", "lora_B")]
                modules[name[len("unet.") : -len(".lora_A.weight")]].weight.data += weight * (
                    up @ down
                )
    parts = {**pipe.components, "unet": other}
    return type(pipe)(**parts, requires_safety_checker=False)


class TestLora:
    def test_it_is_the_update_by_hand(self, pipe, files):
        by_hand = noise(merged(pipe, (lora_weights(pipe, 0), 0.7)))
        before = noise(pipe)
        with adapted(pipe, lora=[f"{files / '0.safetensors'}:0.7"]):
            assert torch.allclose(noise(pipe), by_hand, atol=1e-4)
            assert not torch.allclose(noise(pipe), before, atol=1e-2)

    def test_several_add_up(self, pipe, files):
        pairs = (lora_weights(pipe, 0), 0.7), (lora_weights(pipe, 1), -0.5)
        by_hand = noise(merged(pipe, *pairs))
        items = [f"{files / '0.safetensors'}:0.7", f"{files / '1.safetensors'}:-0.5"]
        with adapted(pipe, lora=items):
            assert torch.allclose(noise(pipe), by_hand, atol=1e-4)

    def test_weight_zero_changes_nothing(self, pipe, files):
        before = noise(pipe)
        with adapted(pipe, lora=[f"{files / '0.safetensors'}:0"]):
            assert torch.allclose(noise(pipe), before, atol=1e-6)

    def test_the_pipeline_is_left_as_it_was(self, pipe, files):
        before, drawn = fingerprint(pipe), picture(pipe)
        processors = dict(pipe.unet.attn_processors)
        with pytest.raises(KeyError), adapted(pipe, lora=[files / "0.safetensors"]):
            assert fingerprint(pipe) != before and picture(pipe) != drawn
            raise KeyError
        assert fingerprint(pipe) == before and picture(pipe) == drawn and restored(pipe.unet)
        assert pipe.unet.attn_processors == processors
        assert not pipe.get_list_adapters()
        assert not any("lora" in name for name, _ in pipe.unet.named_modules())

    def test_it_comes_with_a_loaded_model(self, pipe, files, tmp_path):
        pipe.save_pretrained(tmp_path)
        path = f"{files / '0.safetensors'}:0.7"
        loaded = load_pipeline(tmp_path, device="cpu", lora=[path])
        assert torch.allclose(
            noise(loaded), noise(merged(pipe, (lora_weights(pipe, 0), 0.7))), atol=1e-4
        )

    @pytest.mark.parametrize("method", ["fpe", "p2p", "pnp"])
    def test_methods_run_on_it(self, pipe, files, method):
        without = picture(pipe, method=method)
        with adapted(pipe, lora=[files / "0.safetensors"]):
            assert picture(pipe, method=method) == picture(pipe, method=method) != without

    def test_that_of_another_family_is_refused_and_leaves_nothing(self, pipe, files):
        before = fingerprint(pipe)
        with pytest.raises(ModelError, match="another family"):
            adapted(pipe, lora=[files / "xl.safetensors"]).__enter__()
        assert fingerprint(pipe) == before and not pipe.get_list_adapters()

    def test_what_is_none(self, pipe, files):
        with (
            pytest.raises(ModelError, match="is no LoRA"),
            adapted(pipe, lora=[files / "sks.safetensors"]),
        ):
            pass

    def test_a_pipeline_with_its_own_is_not_touched(self, pipe, files):
        own = copy.deepcopy(pipe)
        own.load_lora_weights(str(files), weight_name="0.safetensors", adapter_name="mine")
        with (
            pytest.raises(ConfigError, match="LoRAs of its own"),
            adapted(own, lora=[files / "1.safetensors"]),
        ):
            pass
        assert own.get_active_adapters() == ["mine"]

    @pytest.mark.parametrize(
        ("item", "expected"),
        [
            ("a.safetensors", ("a.safetensors", 1.0)),
            ("a.safetensors:0.5", ("a.safetensors", 0.5)),
            ("a:-2", ("a", -2.0)),
            ("C:/a.safetensors", ("C:/a.safetensors", 1.0)),
            ("C:/a.safetensors:2", ("C:/a.safetensors", 2.0)),
        ],
    )
    def test_weights_are_read(self, item, expected):
        assert parse_lora(item) == expected

    @pytest.mark.parametrize("item", ["a.safetensors:much", "a:nan", "a:inf"])
    def test_weights_that_are_none(self, item):
        with pytest.raises(ConfigError, match="weight of a LoRA must be"):
            parse_lora(item)

    def test_one_file_as_text_is_a_slip(self):
        with pytest.raises(ConfigError, match="takes a list"):
            load_pipeline("tiny-sd", device="cpu", lora="a.safetensors")


class TestTextualInversion:
    def test_its_vectors_stand_in_the_prompt(self, pipe, files):
        with adapted(pipe, embedding=[files / "sks.safetensors"]):
            model = adapt(pipe, "x")
            assert learned_words(pipe.tokenizer) == {"<sks>": 3}
            ours = model.encode_text(["a <sks> dog"]).states
            converted = pipe.maybe_convert_prompt("a <sks> dog", pipe.tokenizer)
            theirs = pipe.encode_prompt("a <sks> dog", "cpu", 1, False)[0]
            assert spelled_out(pipe.tokenizer, "a <sks> dog") == converted
            assert torch.equal(ours, theirs)

    def test_a_word_of_several_vectors_is_one_word(self, pipe, files):
        with adapted(pipe, embedding=[files / "sks.safetensors"]):
            spelling = adapt(pipe, "x").spell("a <sks> dog")
        assert spelling.words == ("a", "<sks>", "dog")
        assert spelling.spans == ((1, 2), (2, 5), (5, 6))
        assert spelling.pieces[2:5] == ("<sks>", "<sks>_1", "<sks>_2")

    def test_an_edit_aligns_it_as_one_word(self, pipe, files):
        """Prompt-to-prompt lines words up: one vector or three against the one token of `red`."""
        with adapted(pipe, embedding=[files / "sks.safetensors", files / "owl.safetensors"]):
            three = picture(pipe, "a <sks> dog", method="p2p")
            one = picture(pipe, "a owl dog", method="p2p")
        assert three != one

    def test_the_pipeline_is_left_as_it_was(self, pipe, files):
        before, drawn, tokenizer = fingerprint(pipe), picture(pipe), pipe.tokenizer
        words = len(tokenizer)
        with pytest.raises(KeyError), adapted(pipe, embedding=[files / "sks.safetensors"]):
            assert fingerprint(pipe) != before
            raise KeyError
        assert fingerprint(pipe) == before and picture(pipe) == drawn
        assert pipe.tokenizer is tokenizer and len(tokenizer) == words
        assert pipe.text_encoder.config.vocab_size == words
        assert learned_words(pipe.tokenizer) == {}

    def test_a_token_may_be_named(self, pipe, files):
        with adapted(pipe, embedding=[f"<bird>={files / 'owl.safetensors'}"]):
            assert learned_words(pipe.tokenizer) == {"<bird>": 1}

    def test_sdxl_takes_two(self, xl, files):
        with adapted(xl, embedding=[f"<sks>={files / 'both.safetensors'}"]):
            ours = adapt(xl, "x").encode_text(["a <sks> dog"]).states
            theirs = xl.encode_prompt("a <sks> dog", device="cpu")[0]
            assert torch.equal(ours, theirs)
        assert learned_words(xl.tokenizer) == learned_words(xl.tokenizer_2) == {}

    def test_old_pickles(self, pipe, files):
        with pytest.raises(ModelError, match="is a pickle"):
            adapted(pipe, embedding=[files / "old.pt"]).__enter__()
        with adapted(pipe, embedding=[f"<sks>={files / 'old.pt'}"], allow_pickle=True):
            assert learned_words(pipe.tokenizer) == {"<sks>": 3}

    @pytest.mark.parametrize(
        ("item", "kind", "match"),
        [
            ("cat={}/owl.safetensors", ConfigError, "cannot be the token"),
            ("two words={}/owl.safetensors", ConfigError, "cannot be the token"),
            ("{}/both.safetensors", ModelError, "another family"),
            ("{}/0.safetensors", ModelError, "is no textual inversion"),
            ("{}/missing.safetensors", ModelError, "cannot be read"),
        ],
    )
    def test_what_cannot_be_used(self, pipe, files, item, kind, match):
        before = fingerprint(pipe)
        with pytest.raises(kind, match=match), adapted(pipe, embedding=[item.format(files)]):
            pass
        assert fingerprint(pipe) == before and learned_words(pipe.tokenizer) == {}

    def test_too_many_vectors_are_cut_with_a_warning(self, pipe, files):
        with (
            adapted(pipe, embedding=[files / "sks.safetensors"]),
            pytest.warns(FreepromptWarning, match="The prompt has"),
        ):
            adapt(pipe, "x").encode_text(["<sks> " * 30])
