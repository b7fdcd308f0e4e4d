"""A method inside a stock diffusers call, where diffusers runs the loop."""

from typing import ClassVar

import pytest
import torch
from tests.api.samples import (
    OTHER,
    SHARED,
    SOURCE,
    TARGET,
    photo,
    small_sd,
    start_noise,
    state_of,
    told,
    watched,
)

import freeprompt as fp
from freeprompt.api.stock import stock_rows
from freeprompt.core import PAIR, Share
from freeprompt.errors import (
    AlreadyAttached,
    ConfigError,
    ControlNeverFired,
    FreepromptError,
    FreepromptWarning,
    UnsupportedModel,
)
from freeprompt.methods import Task
from freeprompt.models import restored

FPE = fp.methods.FPE
PROMPTS = (SOURCE, TARGET)


@pytest.fixture(scope="module")
def pipe():
    return small_sd()


def stock(pipe, prompts=PROMPTS, **settings):
    """A plain call of the pipeline; latents come back."""
    noise = start_noise().expand(len(prompts), -1, -1, -1)
    settings = {"num_inference_steps": 5, "latents": noise, "output_type": "latent"} | settings
    return pipe(list(prompts), **settings).images


def controlled(pipe, method=None, prompts=PROMPTS, **settings):
    with fp.controlled(pipe, FPE() if method is None else method):
        return stock(pipe, prompts, **settings)


def with_scheduler(name, **settings):
    import diffusers

    pipe = small_sd()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    return pipe


def by_editor(pipe, **settings):
    """The latents that freeprompt's own loop arrives at from the same noise."""
    task = Task(
        targets=(TARGET,),
        source=SOURCE,
        start=start_noise(),
        **{"steps": 5, "guidance": 7.5, **settings},
    )
    with torch.no_grad():
        outcome = FPE()(fp.Editor(pipe).model, task)
    return torch.cat([outcome.source, outcome.targets]), outcome.edited


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_the_source_row_is_the_stock_call_s_and_the_target_is_edited(pipe, guidance) -> None:
    plain = stock(pipe, guidance_scale=guidance)
    edited = controlled(pipe, guidance_scale=guidance)
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("prediction", "guidance"), [("epsilon", 7.5), ("epsilon", 1.0), ("v_prediction", 7.5)]
)
def test_it_is_the_edit_of_the_editor(prediction, guidance) -> None:
    pipe = small_sd(prediction)
    own, _ = by_editor(pipe, guidance=guidance)
    edited = controlled(pipe, guidance_scale=guidance)
    assert (edited - own).abs().max() < 1e-4


def test_several_targets(pipe) -> None:
    three = controlled(pipe, prompts=(SOURCE, TARGET, OTHER))
    assert (three[[0, 2]] - controlled(pipe, prompts=(SOURCE, OTHER))).abs().max() < 1e-4


def test_equal_generators_do_as_well(pipe) -> None:
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    plain = pipe(SOURCE, generator=torch.Generator().manual_seed(7), **settings).images
    with fp.controlled(pipe, FPE(share=1)):
        generators = [torch.Generator().manual_seed(7) for _ in PROMPTS]
        edited = pipe(list(PROMPTS), generator=generators, **settings).images
    assert (edited[0] - plain[0]).abs().max() < 1e-4


def test_pictures_come_out_as_usual(pipe) -> None:
    images = controlled(pipe, output_type="pil")
    assert [image.size for image in images] == [(16, 16)] * 2


def test_other_sizes(pipe) -> None:
    noise = start_noise(height=4, width=12).expand(2, -1, -1, -1)
    edited = controlled(pipe, latents=noise, width=24, height=8)
    plain = stock(pipe, latents=noise, width=24, height=8)
    assert torch.equal(edited[0], plain[0]) and not torch.equal(edited[1], plain[1])


def test_other_features_of_the_call_go_on(pipe) -> None:
    """What else a stock call can do goes on: the block changes attention and nothing more."""
    heard = []

    def hear(pipe, step, timestep, kwargs):
        heard.append(step)
        return kwargs

    out = controlled(
        pipe, callback_on_step_end=hear, guidance_rescale=0.5, negative_prompt=[""] * 2
    )
    assert heard == list(range(5)) and out.isfinite().all()


# ---------------------------------------------------------------------------------- the window


class Noting(FPE):
    """FPE that notes at which timestep, as the denoiser is given it, its control acts."""

    def controls(self, model, task):
        (share,) = super().controls(model, task)
        return [NotingShare(**vars(share))]


class NotingShare(Share):
    now: ClassVar[list[float]] = []
    acted: ClassVar[list[tuple[float, str]]] = []

    def qkv(self, call):
        self.acted.append((self.now[-1], call.site.name))
        return super().qkv(call)


@pytest.fixture
def acted(monkeypatch):
    """What `NotingShare` has noted."""
    monkeypatch.setattr(NotingShare, "now", [])
    monkeypatch.setattr(NotingShare, "acted", [])
    return NotingShare.acted


def noted(pipe, method, **settings):
    """A controlled call of which every timestep is noted."""

    def note(unet, args, kwargs):
        NotingShare.now.append(float(torch.as_tensor(args[1])))

    handle = pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    with watched(pipe) as seen:
        out = controlled(pipe, method, **settings)
    handle.remove()
    return out, seen


@pytest.mark.parametrize(
    ("scheduler", "settings", "visits"),
    [
        ("DDIMScheduler", {}, 3),
        ("EulerDiscreteScheduler", {}, 3),
        ("UniPCMultistepScheduler", {}, 3),
        ("PNDMScheduler", {"skip_prk_steps": True}, 4),  # the second timestep twice
        ("HeunDiscreteScheduler", {}, 5),  # all but the first twice
    ],
)
def test_the_window_is_a_share_of_the_timesteps(acted, scheduler, settings, visits) -> None:
    """The noisiest 60 % of the timesteps are edited, however often each is visited."""
    pipe = with_scheduler(scheduler, **settings)
    plain = stock(pipe)
    out, seen = noted(pipe, Noting(share=0.6))
    order = list(dict.fromkeys(seen.timesteps))
    assert len(order) == 5 and set(acted) == {
        (t, site) for t in order[:3] for site in {site for _, site in acted}
    }
    assert len(acted) == visits * SHARED
    assert torch.equal(out[0], plain[0]) and (out[1] - plain[1]).abs().max() > 1e-3


def test_every_call_in_the_block_has_its_own_window(pipe, acted) -> None:
    """With ten steps first, the window of a later call of five must not be that of ten."""
    alone = controlled(pipe, num_inference_steps=5)
    with fp.controlled(pipe, FPE()):
        stock(pipe, num_inference_steps=10)
        second = stock(pipe, num_inference_steps=5)
    assert torch.equal(second, alone)


def test_the_same_call_twice_is_the_same(pipe) -> None:
    with fp.controlled(pipe, FPE()):
        first, second = stock(pipe), stock(pipe)
    assert torch.equal(first, second)


# ------------------------------------------------------------------------- refusals and warnings


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_one_prompt_is_refused(pipe, guidance) -> None:
    with pytest.raises(UnsupportedModel, match="has one prompt; controlled"):
        controlled(pipe, prompts=(SOURCE,), guidance_scale=guidance)
    assert restored(pipe.unet)


def test_a_block_in_which_nothing_happens(pipe) -> None:
    with (
        pytest.raises(ControlNeverFired, match="call the pipeline within the block"),
        fp.controlled(pipe, FPE()),
    ):
        pass


def test_sites_that_do_not_exist(pipe) -> None:
    with pytest.raises(ControlNeverFired, match="selects no site"):
        controlled(pipe, FPE(sites="self:40-50"))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (FPE(share=0), {}),
        (FPE(sites="none"), {}),
        (FPE(half="uncond"), {"guidance_scale": 1.0}),
        (FPE(), {"prompts": (SOURCE, SOURCE)}),
        (FPE(), {"num_images_per_prompt": 2, "latents": start_noise().expand(4, -1, -1, -1)}),
    ],
    ids=["no share", "no sites", "no rows", "same prompt", "two images a prompt"],
)
def test_an_edit_that_is_none_is_said(pipe, method, settings) -> None:
    """As for `Editor.edit`: a warning or an error, never silence."""
    with told() as messages:
        try:
            controlled(pipe, method, **settings)
        except FreepromptError as error:
            messages.append(str(error))
    assert messages


def test_different_noise_is_warned_of(pipe) -> None:
    noise = torch.cat([start_noise(1), start_noise(2)])
    with pytest.warns(FreepromptWarning, match=r"different noise.*latents=noise.expand"):
        controlled(pipe, latents=noise)
    with pytest.warns(FreepromptWarning, match="different noise"):
        controlled(pipe, latents=None, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["fpe", FPE, None])
def test_a_method_is_an_instance(pipe, method) -> None:
    with pytest.raises(ConfigError, match="method"), fp.controlled(pipe, method):
        stock(pipe)


@pytest.mark.parametrize(
    "method",
    [
        fp.methods.P2P(blend_words="dog,cat"),
        fp.methods.ProtectedFPE(words="dog,cat"),
        fp.methods.ProtectedFPE(),
    ],
)
def test_what_acts_between_the_steps_is_refused(pipe, method) -> None:
    """diffusers takes the steps: a blend with the source would never happen."""
    with (
        pytest.raises(ConfigError, match=r"Use Editor\.edit|use Editor\(pipe\)\.edit"),
        fp.controlled(pipe, method, PROMPTS),
    ):
        stock(pipe)
    assert restored(pipe.unet)


def test_blocks_do_not_nest(pipe) -> None:
    with pytest.raises(AlreadyAttached), fp.controlled(pipe, FPE()):
        controlled(pipe)
    assert restored(pipe.unet) and controlled(pipe).isfinite().all()


def test_an_editor_inside_the_block_is_refused(pipe) -> None:
    with pytest.raises(AlreadyAttached), fp.controlled(pipe, FPE()):
        stock(pipe)
        fp.Editor(pipe).edit(TARGET, source=SOURCE, steps=2)
    assert restored(pipe.unet)


# -------------------------------------------------------------------------- the pipe is left alone


class StopError(Exception):
    pass


def quiet_state(pipe):
    """Without what a stock call changes by itself."""
    ours = state_of(pipe)
    own = {"timesteps", "attributes", "random state"}
    return {name: value for name, value in ours.items() if name not in own}


@pytest.mark.parametrize("error", [None, StopError(), KeyboardInterrupt()])
def test_the_pipe_is_as_before(error) -> None:
    pipe = small_sd()
    before, plain = quiet_state(pipe), stock(pipe)

    def callback(pipe, step, timestep, kwargs):
        if step == 3 and error is not None:
            raise error
        return kwargs

    if error is None:
        controlled(pipe)
    else:
        with pytest.raises(type(error)):
            controlled(pipe, callback_on_step_end=callback)
    assert quiet_state(pipe) == before and restored(pipe.unet)
    assert torch.equal(stock(pipe), plain)


def test_a_failure_inside_the_network(pipe) -> None:
    before = quiet_state(pipe)

    def fail(module, args):
        raise StopError

    handle = pipe.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(StopError):
        controlled(pipe)
    handle.remove()
    assert quiet_state(pipe) == before and restored(pipe.unet)
    assert controlled(pipe).isfinite().all()


def test_a_call_after_one_that_failed_inside_the_network(pipe) -> None:
    """The step that failed is over; it does not miss its sites in the next call."""
    method = FPE(start=0.4, share=0.8)
    wanted = controlled(pipe, method)

    def fail(module, args, out):
        passed.append(module)
        if len(passed) == 3:
            raise ValueError("inside")

    passed = []
    with fp.controlled(pipe, method):
        with (
            pipe.unet.mid_block.register_forward_hook(fail),
            pytest.raises(ValueError, match="inside"),
        ):
            stock(pipe)
        again = stock(pipe)
    assert torch.equal(again, wanted)


def test_after_an_error_in_the_block_the_error_is_what_arrives(pipe) -> None:
    with pytest.raises(StopError), fp.controlled(pipe, FPE()):
        raise StopError


def test_image_to_image(pipe) -> None:
    """Any pipeline of the family will do; a part of the schedule is a part of the window."""
    from diffusers import StableDiffusionImg2ImgPipeline

    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    other = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    settings = {"strength": 0.6, "num_inference_steps": 5, "output_type": "latent"}

    def draw():
        generators = [torch.Generator().manual_seed(7) for _ in PROMPTS]
        return other(list(PROMPTS), [photo(16, 16)] * 2, generator=generators, **settings).images

    plain = draw()
    with fp.controlled(other, FPE(share=1)):
        edited = draw()
    assert torch.equal(edited[0], plain[0]) and not torch.equal(edited[1], plain[1])


def test_rows_of_a_stock_batch() -> None:
    assert stock_rows(4, True) == PAIR
    assert [r.branch for r in stock_rows(6, True)] == ["source", "target", "target"] * 2
    assert [r.conditional for r in stock_rows(3, False)] == [True] * 3
