"""What every registered method promises, whatever it does inside."""

import inspect
from pathlib import Path

import pytest
import torch

import freeprompt.api as api
from freeprompt.methods import METHODS, TwoBranch
from freeprompt.models.tiny import tiny_sd

STEPS = 4
SOURCE, TARGET = "a red dog", "a blue cat"
DOCS = Path(__file__).parents[2] / "docs" / "methods"
EMPTY = {
    "edit-friendly": {"skip": 1},
    "diffedit": {"encode": 0},
    "fpe": {"share": 0},
    "fpe-protect": {"share": 0, "blend_start": 1},
    "imagic": {"mix": 0},
    "infedit": {"strength": 0},
    "ledits": {"skip": 1},
    "masactrl": {"start": STEPS},
    "p2p": {"share": 0, "cross": 0},
    "pix2pix-zero": {"strength": 0},
    "pnp": {"share": 0, "feature_share": 0},
    "sdedit": {"strength": 0},
    "turbo-edit": {"contrast": 0, "longest": 1e9},
}
FORWARDS = {  # (generated, real) at 50 steps
    "edit-friendly": (2 * 50 + 2 * 32 + 2 * 32, 32 + 2 * 32),
    "diffedit": (2 * 50 + 10 * 2 + 2 * 40, 50 + 10 * 2 + 2 * 40),
    "fpe": (4 * 50, 50 + 3 * 40 + 2 * 10),
    "fpe-protect": (2 * 50 + 10 * 2 + 3 * 40 + 2 * 10, 50 + 10 * 2 + 3 * 40 + 2 * 10),
    "imagic": (2 * 50 + 3 + 2 + 2 * 50, 3 + 2 + 2 * 50),  # with few training steps, see FEW_STEPS
    "infedit": (2 * 50 + 6 * 50, 6 * 50),
    "instruct-pix2pix": (2 * 50 + 3 * 50, 3 * 50),
    "ledits": (2 * 50 + 43 + 2 * 43, 43 + 2 * 43),
    "masactrl": (4 * 50, 50 + 2 * 4 + 3 * 46),
    "p2p": (4 * 50, 50 + 3 * 30 + 2 * 20),
    "pix2pix-zero": (50 * (2 + 1 + 2), 50 + 50 * (1 + 1 + 2)),
    "pnp": (4 * 50, 50 + 3 * 40 + 2 * 10),
    "sdedit": (2 * 50 + 2 * 40, 2 * 40),
    "turbo-edit": (2 * 4 + 3 * 4, 3 * 4),
}
USUAL_STEPS = {"turbo-edit": 4}  # the others have 50
FEW_STEPS = {
    "masactrl": {"start": 1},  # so that its window begins within them
    "imagic": {"embedding_steps": 3, "model_steps": 2},
}
TRAINING = {"imagic": FEW_STEPS["imagic"]}
pytestmark = pytest.mark.parametrize("name", list(METHODS))


@pytest.fixture(scope="module")
def editors():
    text, instructed = tiny_sd(sample_size=8), tiny_sd(sample_size=8, in_channels=8)
    return {False: api.Editor(text, name="tiny"), True: api.Editor(instructed, name="instructed")}


@pytest.fixture
def editor(editors, name):
    """A model of the kind that the method is for."""
    return editors[METHODS[name].instructs]


@pytest.fixture(scope="module")
def picture(editors):
    return editors[False].edit(TARGET, source=SOURCE, steps=2, seed=3).source


def few(name):
    return {"method": name, "steps": STEPS, **FEW_STEPS.get(name, {})}


def furthest(one, other):
    """Return the largest difference of any value of two pictures, in 0..255."""
    first, second = (torch.tensor(list(image.tobytes())) for image in (one, other))
    return int((first - second).abs().max())


def pixels(images):
    return [image.tobytes() for image in images]


def test_generated_and_again(editor, name):
    first, second = (
        editor.edit([TARGET, "a green horse"], source=SOURCE, seed=1, **few(name)) for _ in range(2)
    )
    assert pixels(first.images) == pixels(second.images)
    assert first.images[0].tobytes() != first.source.tobytes()
    assert first.images[0].tobytes() != first.images[1].tobytes()
    assert first.provenance.method == name


def test_a_real_image_with_and_without_a_source_prompt(editor, picture, name):
    reads = METHODS[name].reads_prompts
    for source in (SOURCE, None)[: 1 if reads else 2]:
        result = editor.edit(TARGET, image=picture, source=source, **few(name))
        assert result.images[0].size == picture.size
        assert result.images[0].tobytes() != picture.tobytes()


def test_the_generated_source_is_the_plain_one(editor, name):
    """Whatever a method does, the picture that is kept is the one without it."""
    other = few(name) if METHODS[name].instructs else {"steps": STEPS, "sites": "self:7"}
    plain = editor.edit(SOURCE + " at night", source=SOURCE, **other)
    kept = editor.edit(TARGET, source=SOURCE, **few(name))
    # where the batch is another, the last bit of a product may be another
    exact = kept.provenance.sample_forwards == plain.provenance.sample_forwards
    assert furthest(plain.source, kept.source) <= (0 if exact else 1)


@pytest.mark.filterwarnings("ignore::freeprompt.errors.FreepromptWarning")
def test_an_empty_window_edits_nothing_and_says_so(editor, name):
    if name not in EMPTY:
        assert METHODS[name].instructs  # it draws a new picture whatever it is told
        return
    with pytest.warns(api.checks.FreepromptWarning, match="nothing was edited"):
        empty = editor.edit(TARGET, source=SOURCE, method=name, steps=STEPS, **EMPTY[name])
    assert empty.provenance.edited_pairs == 0
    if issubclass(METHODS[name], TwoBranch):
        with pytest.warns(api.checks.FreepromptWarning):
            plain = editor.edit(TARGET, source=SOURCE, steps=STEPS, share=0)
        # a method that finishes the source first runs batches of another size
        exact = empty.provenance.sample_forwards == plain.provenance.sample_forwards
        assert furthest(empty.images[0], plain.images[0]) <= (0 if exact else 1)
    else:
        assert furthest(empty.images[0], empty.source) <= 1


def test_counted_work(editor, picture, name):
    seen = []
    hook = editor.pipe.unet.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    plan = {"method": name, "steps": USUAL_STEPS.get(name, 50), **TRAINING.get(name, {})}
    generated = editor.edit(TARGET, source=SOURCE, **plan)
    counted = [sum(seen)]
    seen.clear()
    source = SOURCE if METHODS[name].reads_prompts else None
    real = editor.edit(TARGET, image=picture, source=source, **plan)
    counted.append(sum(seen))
    hook.remove()
    assert tuple(counted) == FORWARDS[name]
    assert generated.provenance.sample_forwards == counted[0]
    assert real.provenance.sample_forwards == counted[1]


def test_parameters_survive_text_and_provenance(name):
    method = METHODS[name]()
    values = method.to_dict()
    assert METHODS[name].build({key: str(value) for key, value in values.items()}) == method
    assert METHODS[name].build(values) == method


def test_documented(name):
    text = inspect.getdoc(METHODS[name])
    assert all(
        word in text for word in ("Source:", "arXiv:", "Preserves:", "Changes:", "Fails when:")
    )
    page = (DOCS / f"{name}.md").read_text()
    assert all(word in page for word in ("arXiv:", "**Preserves**", "**Changes**", "**Fails**"))
    assert f"({name}.md)" in (DOCS / "README.md").read_text()
    for spec in METHODS[name].specs().values():
        assert spec.help
        assert spec.source
