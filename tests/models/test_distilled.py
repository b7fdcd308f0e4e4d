"""Models and LoRAs of few steps: where their steps begin, and that all methods work on them."""

import diffusers
import pytest
import torch
from safetensors.torch import save_file

import freeprompt as fp
from freeprompt.errors import ConfigError, ModelError
from freeprompt.models import CATALOG, adapted
from freeprompt.models.distilled import OURS, says_so
from freeprompt.models.tiny import tiny_sd

SOURCE, TARGET = "a red dog", "a blue dog"
SAID = {"source": SOURCE, "width": 64, "height": 64}


@pytest.fixture
def pipe():
    return tiny_sd(sample_size=8)


def lora(path, metadata=None):
    """A LoRA of one layer of tiny-sd, in diffusers' layout."""
    unet = tiny_sd(sample_size=8).unet
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = unet.get_submodule(name).weight
    tensors = {
        f"unet.{name}.lora_A.weight": torch.randn(2, weight.shape[1]),
        f"unet.{name}.lora_B.weight": torch.randn(weight.shape[0], 2),
    }
    save_file(tensors, path, metadata=metadata)
    return path


def consistent(pipe):
    """The parts of an LCM checkpoint: its scheduler, and a network that is told the guidance."""
    told = diffusers.UNet2DConditionModel.from_config(pipe.unet.config, time_cond_proj_dim=16)
    told.load_state_dict(pipe.unet.state_dict(), strict=False)
    pipe.unet = told.eval()
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def turbo(pipe):
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    return pipe


@pytest.mark.parametrize(
    ("item", "metadata"), [("lcm={}", None), ("lcm={}:0.5", None), ("{}", {"distilled": "lcm"})]
)
def test_a_distilled_lora_begins_at_noise_and_is_taken_away(pipe, tmp_path, item, metadata) -> None:
    file, before = lora(tmp_path / "few.safetensors", metadata), pipe.scheduler
    with adapted(pipe, lora=[item.format(file)]):
        editor = fp.Editor(pipe, name="x")
        p = editor.edit(TARGET, **SAID).provenance
        assert (p.steps, p.guidance) == (4, 1.0) and "distilled" in p.defaults["of"]
        assert editor.model.schedule(4).timesteps == (999, 749, 499, 249)
    assert pipe.scheduler is before


def test_another_lora_leaves_the_steps_alone(pipe, tmp_path) -> None:
    before = pipe.scheduler
    with adapted(pipe, lora=[lora(tmp_path / "style.safetensors")]):
        assert pipe.scheduler is before


def test_the_weight_of_a_named_file_counts(pipe, tmp_path) -> None:
    file = lora(tmp_path / "few.safetensors")
    pictures = []
    for weight in (":0.5", ""):
        with adapted(pipe, lora=[f"lcm={file}{weight}"]):
            pictures.append(fp.Editor(pipe, name="x").edit(TARGET, **SAID).images[0].tobytes())
    assert pictures[0] != pictures[1]


def test_a_family_without_one_is_told_so(pipe) -> None:
    with (
        pytest.raises(ConfigError, match=r"no LoRA 'lcm' for .*lcm=FILE"),
        adapted(pipe, lora=["lcm"]),
    ):
        pass


def test_one_that_cannot_be_fetched_is_told_so() -> None:
    wide = tiny_sd(sample_size=8)
    wide.unet.register_to_config(cross_attention_dim=768)
    with pytest.raises(ModelError, match=r"lcm-lora-sdv1-5.*lcm=FILE"), adapted(wide, lora=["lcm"]):
        pass


def test_a_file_of_this_name_is_that_file(pipe, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lora(tmp_path / "lcm")
    before = pipe.scheduler
    with adapted(pipe, lora=["lcm"]):
        assert pipe.scheduler is before, "it does not say that it is distilled"


@pytest.mark.parametrize("make", [consistent, turbo])
@pytest.mark.parametrize(("steps", "guidance"), [(1, 1), (2, 0), (4, 2), (8, 1)])
def test_few_steps_edit(pipe, make, steps, guidance) -> None:
    p = (
        fp.Editor(make(pipe), name="few")
        .edit(TARGET, **SAID, steps=steps, guidance=guidance, share=1.0)
        .provenance
    )
    rows = 2 if guidance <= 1 else 4
    assert p.sample_forwards == rows * steps and p.edited_steps == steps


@pytest.mark.parametrize("method", ["p2p", "pnp", "sdedit", "infedit", "turbo-edit"])
def test_rivals_edit_in_four_steps(pipe, method) -> None:
    editor = fp.Editor(consistent(pipe), name="few")
    edited = editor.edit(TARGET, **SAID, method=method)
    assert edited.provenance.steps == 4 and edited.provenance.guidance == 1
    assert edited.images[0].tobytes() != edited.generated.tobytes()


def test_steps_of_a_distilled_model_begin_at_pure_noise(pipe) -> None:
    for make in (consistent, turbo):
        model = fp.Editor(make(tiny_sd(sample_size=8)), name="few").model
        for steps in (1, 2, 4, 8):
            assert model.schedule(steps).timesteps[0] == 999


def test_ours_is_here_and_says_what_it_is() -> None:
    assert OURS.is_file() and OURS.stat().st_size < 5e6 and says_so(str(OURS), False)
    assert CATALOG["emoji-sd"].embedded


@pytest.mark.slow
def test_ours_draws_in_four_steps_what_plain_steps_do_not(tmp_path) -> None:
    """A saved checkpoint with the LoRA merged in is known for what it is, and edits alike."""
    editor = fp.load("emoji-sd", device="cpu", lora=["lcm"])
    result = editor.edit("a blue car on the street", source="a red car on the street", seed=3)
    assert (result.provenance.steps, result.provenance.parameters["sites"]) == (4, "self:all")
    from freeprompt.judge import Judge

    source, edited = Judge.load().read([result.generated, result.images[0]])
    assert (source.color, edited.color) == ("red", "blue")
    editor.pipe.fuse_lora()
    editor.pipe.unload_lora_weights()
    editor.pipe.save_pretrained(tmp_path / "merged")
    merged = fp.load(tmp_path / "merged", device="cpu")
    again = merged.edit("a blue car on the street", source="a red car on the street", seed=3,
                        sites="self:all")  # fmt: skip
    assert (again.provenance.steps, again.provenance.guidance) == (4, 1.0)
    read = Judge.load().read(again.images)[0]
    assert (read.subject, read.color) == (edited.subject, "blue")
