"""Training for one subject: files that the real loaders read, and a model left as it was."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from tests.api.samples import SOURCE, photo, small_sd, state_of, watched

from freeprompt.api import Editor
from freeprompt.core.objective import Objective
from freeprompt.errors import ConfigError, FreepromptWarning, ImageError, UnsupportedModel
from freeprompt.finetune import EmbeddingTraining, LoraTraining, train_embedding, train_lora
from freeprompt.finetune.training import shuffled
from freeprompt.models import adapt, adapted
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.text import learned_words
from freeprompt.models.tiny import tiny_sdxl

LORA = LoraTraining(prompt="a sks dog", steps=4, rate=1e-2, rank=2)
WORD = EmbeddingTraining(like="dog", steps=4, rate=1e-2, vectors=2, prompts="a {}")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipe(request):
    return small_sd(request.param)


@pytest.fixture(scope="module")
def plain():
    return small_sd()


@pytest.fixture(scope="module")
def pictures():
    return [photo(24, 16, seed=i) for i in range(3)]


def trained(pipe, pictures, out, settings, **more):
    train = train_lora if isinstance(settings, LoraTraining) else train_embedding
    return train(adapt(pipe, "small"), pictures, out, settings, **more)


def loss_on(pipe, picture, prompt, draws=10):
    """Mean training loss of one picture under a prompt."""
    from freeprompt.finetune.pictures import latents
    from freeprompt.picture import open_image

    model = adapt(pipe, "small")
    objective = Objective(schedule=model.schedule(1), seed=77)
    with torch.no_grad():
        (clean,) = latents(model, [open_image(picture)])
        text = model.encode_text([prompt])
        return float(sum(objective.loss(model, clean, text, i) for i in range(draws)) / draws)


class TestLora:
    def test_it_learns_the_pictures_under_the_prompt(self, pipe, pictures, tmp_path):
        file = tmp_path / "a.safetensors"
        settings = LORA.build({**LORA.to_dict(), "steps": 20})
        before = loss_on(pipe, pictures[0], "a sks dog")
        trained(pipe, pictures, file, settings)
        with adapted(pipe, lora=[file]):
            assert loss_on(pipe, pictures[0], "a sks dog") < 0.97 * before
        assert loss_on(pipe, pictures[0], "a sks dog") == before

    @pytest.mark.parametrize("text", [False, True])
    def test_diffusers_reads_it_as_we_do(self, plain, pictures, tmp_path, text):
        from copy import deepcopy

        file = tmp_path / "a.safetensors"
        trained(plain, pictures, file, LORA.build({**LORA.to_dict(), "text": text}))
        theirs = deepcopy(plain)
        theirs.load_lora_weights(str(tmp_path), weight_name=file.name)
        draws = {}
        for name, one in {"plain": plain, "theirs": theirs}.items():
            draws[name] = adapt(one, name).predict(*_inputs(one))
        with adapted(plain, lora=[file]):
            draws["ours"] = adapt(plain, "ours").predict(*_inputs(plain))
        assert torch.equal(draws["ours"], draws["theirs"])
        assert not torch.allclose(draws["ours"], draws["plain"], atol=1e-4)
        names = list(safe_open(file, "pt").keys())
        assert any(name.startswith("text_encoder.") for name in names) == text

    def test_its_gradients_are_those_of_training_by_hand(self, pipe, pictures, tmp_path):
        """One step of AdamW moves each B by the rate against its gradient's sign: B starts at 0."""
        file = tmp_path / "a.safetensors"
        trained(pipe, pictures[:1] * 3, file, LORA.build({**LORA.to_dict(), "steps": 1}))
        stored = safe_open(file, "pt")
        name = next(n for n in stored.keys() if n.endswith("to_q.lora.up.weight"))  # noqa: SIM118
        up, down = stored.get_tensor(name), stored.get_tensor(name.replace(".up.", ".down."))
        layer = pipe.unet.get_submodule(name.removeprefix("unet.").removesuffix(".lora.up.weight"))
        layer.weight.requires_grad_(True)
        model = adapt(pipe, "small")
        objective = Objective(schedule=model.schedule(1), seed=0)
        from freeprompt.finetune.pictures import latents
        from freeprompt.picture import open_image

        (clean,) = latents(model, [open_image(pictures[0])])
        text = model.encode_text(["a sks dog"])
        t, noise = objective.timestep(0), objective.noise(clean, 0)
        from diffusers import DDPMScheduler

        scheduler, when = DDPMScheduler.from_config(pipe.scheduler.config), torch.tensor([t])
        wanted = noise
        if scheduler.config.prediction_type == "v_prediction":
            wanted = scheduler.get_velocity(clean, noise, when)
        noisy = scheduler.add_noise(clean, noise, when)
        answer = pipe.unet(noisy, when, encoder_hidden_states=text.states).sample
        (slope,) = torch.autograd.grad(F.mse_loss(answer, wanted), layer.weight)
        layer.weight.requires_grad_(False)
        by_hand = -LORA.rate * (slope @ down.T).sign()
        sure = (slope @ down.T).abs() > 1e-6
        assert torch.allclose(up[sure], by_hand[sure], rtol=1e-2)

    def test_prior_preservation_takes_pictures_of_the_class(self, plain, pictures, tmp_path):
        settings = LORA.build({**LORA.to_dict(), "class_prompt": "a dog", "class_count": 2})
        with watched(plain) as seen:
            drawn = trained(plain, pictures, tmp_path / "a.safetensors", settings)
        assert seen.samples == drawn.sample_forwards == 2 * 2 * 25 + 4 * 2
        others = [photo(16, 16, seed=i) for i in (5, 6, 7)]
        given = trained(
            plain, pictures, tmp_path / "b.safetensors", settings, class_pictures=others
        )
        assert given.sample_forwards == 4 * 2 and given.sha256 != drawn.sha256

    def test_an_edit_with_it_is_another_picture(self, plain, pictures, tmp_path):
        trained(plain, pictures, tmp_path / "a.safetensors", LORA)
        editor = Editor(plain, name="small")

        def edit():
            return editor.edit("a sks dog", source=SOURCE, steps=3).images[0].tobytes()

        without = edit()
        with adapted(plain, lora=[tmp_path / "a.safetensors"]):
            assert edit() != without
        assert edit() == without


class TestEmbedding:
    def test_it_learns_the_pictures(self, pipe, pictures, tmp_path):
        file = tmp_path / "w.safetensors"
        settings = WORD.build({**WORD.to_dict(), "steps": 40, "rate": 3e-2, "vectors": 4})
        before = loss_on(pipe, pictures[0], "a dog dog dog dog")
        trained(pipe, pictures, file, settings)
        with adapted(pipe, embedding=[file]):
            assert loss_on(pipe, pictures[0], "a <sks>") < before

    def test_diffusers_reads_it_as_we_do(self, plain, pictures, tmp_path):
        from copy import deepcopy

        file = tmp_path / "w.safetensors"
        trained(plain, pictures, file, WORD)
        theirs = deepcopy(plain)
        theirs.load_textual_inversion(str(file))
        assert learned_words(theirs.tokenizer) == {"<sks>": 2}
        with adapted(plain, embedding=[file]):
            ours = adapt(plain, "ours").encode_text(["a <sks> dog"]).states
        assert torch.equal(ours, theirs.encode_prompt("a <sks> dog", "cpu", 1, False)[0])

    def test_before_the_first_step_the_word_is_the_other_one(self, plain, pictures, tmp_path):
        settings = WORD.build({**WORD.to_dict(), "steps": 1, "rate": 0.0, "vectors": 1})
        trained(plain, pictures, tmp_path / "w.safetensors", settings)
        with adapted(plain, embedding=[tmp_path / "w.safetensors"]):
            model = adapt(plain, "x")
            same = model.encode_text(["a red <sks>", "a red dog"]).states
        assert torch.equal(same[0], same[1])

    def test_sdxl_has_two(self, pictures, tmp_path):
        xl = tiny_sdxl(sample_size=8, second_width=48)
        before = fingerprint(xl)
        trained(xl, pictures, tmp_path / "w.safetensors", WORD)
        trained(xl, pictures, tmp_path / "a.safetensors", LORA)
        assert fingerprint(xl) == before
        with adapted(xl, embedding=[f"<sks>={tmp_path}/w.safetensors"]):
            assert learned_words(xl.tokenizer_2) == {"<sks>": 2}
        with adapted(xl, lora=[tmp_path / "a.safetensors"]):
            assert fingerprint(xl) != before


@pytest.mark.parametrize("settings", [LORA, WORD], ids=["lora", "embedding"])
class TestBoth:
    def test_the_model_is_left_as_it_was(self, plain, pictures, tmp_path, settings):
        before, tokenizer = state_of(plain), plain.tokenizer

        def stop(progress):
            raise KeyboardInterrupt

        trained(plain, pictures, tmp_path / "a.safetensors", settings)
        assert state_of(plain) == before and plain.tokenizer is tokenizer
        with pytest.raises(KeyboardInterrupt):
            trained(plain, pictures, tmp_path / "b.safetensors", settings, callback=stop)
        assert state_of(plain) == before and plain.tokenizer is tokenizer
        assert not (tmp_path / "b.safetensors").exists()

    def test_the_same_seed_writes_the_same_bytes(self, plain, pictures, tmp_path, settings):
        files = [tmp_path / f"{i}.safetensors" for i in range(3)]
        for i, file in enumerate(files):
            torch.manual_seed(i)
            trained(plain, pictures, file, settings.build({**settings.to_dict(), "seed": i // 2}))
        first, second, other = (file.read_bytes() for file in files)
        assert first == second != other

    def test_what_was_interrupted_goes_on_to_the_same_bytes(
        self, plain, pictures, tmp_path, settings
    ):
        whole, parts, state = (tmp_path / f"{n}.safetensors" for n in ("whole", "parts", "state"))
        trained(plain, pictures, whole, settings)

        def stop(progress):
            if progress.step == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(plain, pictures, parts, settings, checkpoint=state, callback=stop)
        done = trained(plain, pictures, parts, settings, checkpoint=state)
        assert done.sample_forwards == settings.steps - 2 and done.steps == settings.steps
        assert parts.read_bytes() == whole.read_bytes()
        longer = settings.build({**settings.to_dict(), "steps": settings.steps + 1})
        assert trained(plain, pictures, parts, longer, checkpoint=state).sample_forwards == 1
        with pytest.raises(ConfigError, match="other settings, pictures or another model"):
            trained(plain, pictures[::-1], parts, settings, checkpoint=state)

    def test_the_file_says_how_it_was_made(self, plain, pictures, tmp_path, settings):
        file = tmp_path / "a.safetensors"
        trained(plain, pictures, file, settings)
        about = json.loads(safe_open(file, "pt").metadata()["freeprompt"])
        assert about["settings"] == settings.to_dict() and len(about["pictures"]) == 3
        assert about["model_fingerprint"] == fingerprint(plain) and about["steps"] == 4

    def test_options_do_what_they_say(self, plain, pictures, tmp_path, settings):
        def made(**more):
            chosen = settings.build({**settings.to_dict(), **more})
            done = trained(plain, pictures, tmp_path / "a.safetensors", chosen)
            return done

        usual = made()
        assert made(recompute=True).sample_forwards == usual.sample_forwards
        assert made(batch=2).sample_forwards == 2 * usual.sample_forwards
        assert made(mirror=True).sha256 != usual.sha256
        assert not plain.unet.is_gradient_checkpointing

    def test_pictures_that_cannot_be_used(self, plain, tmp_path, settings):
        out, folder = tmp_path / "a.safetensors", tmp_path / "pictures"
        folder.mkdir()
        with pytest.raises(ConfigError, match=r"There are no pictures of the subject in .*pict"):
            trained(plain, folder, out, settings)
        with pytest.raises(ConfigError, match="is no folder"):
            trained(plain, tmp_path / "none", out, settings)
        (folder / "notes.txt").write_text("not a picture, and not taken for one")
        Image.new("RGB", (16, 16)).save(folder / "1.png")
        with pytest.warns(FreepromptWarning, match="only 1 pictures of the subject"):
            trained(plain, folder, out, settings)
        (folder / "2.png").write_bytes(b"broken")
        with pytest.raises(ImageError, match=r"2\.png"):
            trained(plain, folder, out, settings)

    def test_models_that_cannot_be_trained(self, pictures, tmp_path, settings):
        half, painter = small_sd(), small_sd(in_channels=8)
        half.unet.half()
        with pytest.raises(ConfigError, match=r"float16.*bfloat16"):
            trained(half, pictures, tmp_path / "a.safetensors", settings)
        model = adapt(small_sd(), "painter")
        model.pipe.unet = painter.unet
        train = train_lora if settings is LORA else train_embedding
        with pytest.raises(UnsupportedModel, match="8 input channels"):
            train(model, pictures, tmp_path / "a.safetensors", settings)
        moved = small_sd()
        moved.unet._hf_hook = object()  # what accelerate leaves at a module that it moves
        with pytest.raises(ConfigError, match="CPU offload"):
            trained(moved, pictures, tmp_path / "a.safetensors", settings)
        steered = adapt(small_sd(), "steered")
        steered.networks = ("one",)
        with pytest.raises(ConfigError, match="ControlNet"):
            train(steered, pictures, tmp_path / "a.safetensors", settings)

    def test_the_result_is_a_safetensors_file(self, plain, pictures, tmp_path, settings):
        with pytest.raises(ConfigError, match=r"one \.safetensors file"):
            trained(plain, pictures, tmp_path / "a.pt", settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (LoraTraining(), "no prompt that says"),
        (LoraTraining(prompt="a dog", class_prompt="A dog "), "is the prompt itself"),
        (EmbeddingTraining(), "no word to start from"),
        (EmbeddingTraining(like="dog", prompts="a photo"), r"has no \{\}"),
        (EmbeddingTraining(like="dog", token="cat"), "'cat' cannot be the new word"),
        (EmbeddingTraining(like="dog", token="two words"), "must be one word"),
        (EmbeddingTraining(like="giraffe"), "'giraffe' has 6 tokens, and the new word 1"),
    ],
)
def test_settings_that_cannot_be_used(plain, pictures, tmp_path, settings, match):
    before = fingerprint(plain)
    with watched(plain) as seen, pytest.raises(ConfigError, match=match):
        trained(plain, pictures, tmp_path / "a.safetensors", settings)
    assert seen.samples == 0 and fingerprint(plain) == before


def test_a_lora_of_ones_own_is_not_trained_over(plain, pictures, tmp_path):
    trained(plain, pictures, tmp_path / "a.safetensors", LORA)
    with (
        adapted(plain, lora=[tmp_path / "a.safetensors"]),
        pytest.raises(ConfigError, match="LoRAs of its own"),
    ):
        trained(plain, pictures, tmp_path / "b.safetensors", LORA)


def test_every_picture_has_its_turn():
    turns = [shuffled(5, 3, number) for number in range(15)]
    assert all(sorted(turns[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
    assert turns[:5] != turns[5:10] or turns[5:10] != turns[10:]


def _inputs(pipe):
    model = adapt(pipe, "x")
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, 500, model.encode_text(["a sks dog"])
