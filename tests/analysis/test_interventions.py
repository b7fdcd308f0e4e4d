"""Interventions do what they say, and the laboratory does nothing twice."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.api.samples import small_sd

from freeprompt.analysis.interventions import (
    PLAIN,
    Cell,
    Intervention,
    intervene,
    swapped_tokens,
    using,
)
from freeprompt.analysis.laboratory import Laboratory
from freeprompt.analysis.scoring import JudgeScorer, PixelScorer, View, iou, scorer_for
from freeprompt.analysis.studies import (
    cells_of,
    chosen,
    cross_study,
    draw_grid,
    groups,
    layer_study,
    summary,
    window_study,
)
from freeprompt.analysis.tasks import ATTRIBUTES, edit_cases
from freeprompt.core import Sites
from freeprompt.errors import ConfigError, PromptAlignmentError
from freeprompt.methods import FPE, METHODS, Task
from freeprompt.methods.base import generated_source
from freeprompt.models import adapt

STEPS = 4
SOURCE, TARGETS = "a red dog", ("a blue dog", "a green dog")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model():
    return adapt(small_sd(), "small")


def task(model, *, seed=0, trajectory=None, **changes):
    noise = torch.randn(model.latent_shape(16, 16), generator=torch.Generator().manual_seed(seed))
    given = {"targets": TARGETS, "source": SOURCE, "start": noise, "steps": STEPS, "guidance": 7.5}
    return Task(**{**given, "trajectory": trajectory, **changes})


@pytest.fixture(scope="module")
def trajectory(model):
    with torch.no_grad():
        return generated_source(model, task(model))


def apply(model, trajectory, seed=0, **settings):
    method = Intervention(**{k: Sites(v) if k == "sites" else v for k, v in settings.items()})
    return method(model, task(model, seed=seed, trajectory=trajectory)).targets


def test_self_maps_below_the_top_are_fpe(model, trajectory):
    """Against the registered method on a generated source, which runs the source beside it."""
    fpe = FPE(share=0.5)(model, task(model))
    assert torch.allclose(fpe.source, trajectory.clean, atol=1e-3)
    found = apply(model, trajectory, sites="self:below-top", stop=0.5)
    assert torch.allclose(found, fpe.targets, atol=1e-3)
    assert not torch.allclose(found, apply(model, trajectory, sites="none"), atol=1e-2)


def test_nothing_replaced_is_the_plain_target(model, trajectory):
    plain = apply(model, trajectory, sites="none")
    for nothing in ({"stop": 0.0}, {"start": 1.0}, {"start": 0.5, "stop": 0.5}):
        assert torch.equal(plain, apply(model, trajectory, sites="self:all", **nothing))
    own = generated_source(model, task(model, source=TARGETS[0]))
    assert torch.allclose(plain[:1], own.clean, atol=1e-3)


def test_all_cross_maps_are_p2p_without_self(model, trajectory):
    p2p = METHODS["p2p"].build({"mode": "replace", "cross": 0.5, "share": 0.0})
    expected = p2p(model, task(model)).targets
    found = apply(model, trajectory, sites="cross:all", stop=0.5, words="all")
    assert torch.allclose(found, expected, atol=1e-3)


def test_words_make_up_the_whole(model):
    source, target = model.spell("a red car"), model.spell("a turquoise car")
    parts = [swapped_tokens(source, target, words) for words in ("edited", "others", "padding")]
    total = torch.stack(parts).sum(0)
    assert total.max() == 1
    assert total[0] == 0  # the start token belongs to 'all' alone
    assert total[1:].min() == 1
    assert parts[0].nonzero().flatten().tolist() == list(target.tokens_of("turquoise"))
    assert len(target.tokens_of("turquoise")) > 1
    assert torch.equal(parts[1] + parts[2], swapped_tokens(source, target, "others+padding"))
    assert swapped_tokens(source, target, "all").min() == 1


def test_each_kind_of_word_changes_the_picture(model, trajectory):
    plain = apply(model, trajectory, sites="none")
    seen = [plain]
    for words in ("edited", "others", "padding", "others+padding", "all"):
        found = apply(model, trajectory, sites="cross:all", words=words)
        assert all(not torch.allclose(found, other, atol=1e-2) for other in seen), words
        seen.append(found)


def test_other_noise_still_follows_the_source(model, trajectory):
    """Values of the source at the finest grid must be the trajectory's from the first step on."""
    other = task(model, seed=9)
    found = apply(model, trajectory, seed=9, sites="self:all", take="values", half="both")
    source_beside = Intervention(sites=Sites("self:all"), take="values", half="both")
    # the source's latents differ from the target's, so starting both from the target's noise
    # would be another picture
    wrong = source_beside(model, other).targets
    assert not torch.allclose(found, wrong, atol=1e-2)
    assert torch.isfinite(found).all()


def test_what_cannot_be_replaced(model, trajectory):
    with pytest.raises(ConfigError, match="intervention of its own"):
        apply(model, trajectory, sites="self:all+cross:all")
    with pytest.raises(ConfigError, match="intervention of its own"):
        apply(model, trajectory, sites="cross:all", take="values")
    with pytest.raises(ConfigError, match="words of Intervention"):
        Intervention(words="nouns")
    method = Intervention(sites=Sites("cross:all"))
    with pytest.raises(PromptAlignmentError):
        method(model, task(model, trajectory=trajectory, targets=("a big blue dog",)))


def test_equal_work_has_one_key():
    assert intervene("a", "self:all").key == intervene("b", "self:all").key
    for nothing in (
        intervene("a", "none", stop=0.2),
        intervene("a", "self:all", start=0.5, stop=0.5),
    ):
        assert nothing.key == PLAIN.key
    assert intervene("a", "none", other_noise=True).key != PLAIN.key
    assert using("fpe", "fpe").key != using("fpe", "fpe", share=0.5).key


class Counting(PixelScorer):
    """Pixels, and how often they were asked for."""

    calls = 0

    def __call__(self, view: View):
        type(self).calls += 1
        return super().__call__(view)


CELLS = [PLAIN, intervene("all", "self:all"), intervene("kv", "self:all", take="values")]


def lab_in(model, folder, **changes):
    given = {"scorer": Counting(), "folder": folder, "steps": STEPS, "examples": 1}
    return Laboratory(model, edit_cases(6, per_source=2), **{**given, **changes})


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    with torch.no_grad():
        lab = lab_in(model, tmp_path_factory.mktemp("lab"))
        return lab.run(CELLS)


def test_scores_of_every_pair(finished):
    for cell in CELLS:
        rows = finished.rows(cell)
        assert [(r.case, r.target) for r in rows] == [
            (case.name, i) for case in finished.cases for i in range(len(case.targets))
        ]
    assert all(row.scores["toward"] == 1 for row in finished.rows(PLAIN))
    assert any(row.scores["toward"] < 1 for row in finished.rows(CELLS[1]))


def test_going_on_gives_the_same(model, finished, tmp_path):
    lab = lab_in(model, tmp_path)
    made = []

    def stop_later(done, total):
        made.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.run(CELLS, callback=stop_later)
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"cell": "half a li')  # killed while it wrote
    Counting.calls = 0
    again = lab_in(model, tmp_path).run(CELLS)
    assert Counting.calls == 3 * 4 - 5
    for cell in CELLS:
        assert again.rows(cell) == finished.rows(cell)
    Counting.calls = 0
    before = model.sample_forwards
    done = lab_in(model, tmp_path)
    assert done.plan(CELLS).forwards == 0
    done.run(CELLS)
    assert (Counting.calls, model.sample_forwards) == (0, before)


def test_the_plan_is_an_upper_bound_of_the_work(model, tmp_path):
    lab = lab_in(model, tmp_path)
    planned, before = lab.plan(CELLS), model.sample_forwards
    lab.run(CELLS)
    spent = model.sample_forwards - before
    assert spent <= planned.forwards <= 1.6 * spent
    assert (planned.cells, planned.pairs) == (3, 6)
    assert "3 interventions x 6 pairs" in str(planned)


def test_other_settings_are_refused(model, finished):
    with pytest.raises(ConfigError, match="steps 4, now 5"):
        lab_in(model, finished.lab.folder, steps=5)


def test_pictures_of_examples_are_kept(finished):
    first, second = finished.cases[:2]
    assert finished.lab.example(first, None).size == (16, 16)
    assert finished.lab.example(first, CELLS[1], 1) is not None
    assert finished.lab.example(second, None) is None
    study = layer_study(finished.lab.model.sites, every=3, random_sets=0)
    sheet = draw_grid(finished, study[-1])
    assert sheet.width > 6 * 72


class TestStudies:
    def test_layers(self, model):
        study = layer_study(model.sites)
        singles, first, last, sets = study
        assert len(singles.cells) == len(first.cells) == len(last.cells) == 7
        assert first.cells[-1].key == last.cells[0].key  # both ends meet in all layers
        below = [s.index for s in model.sites if s.kind == "self" and s.scale > 1]
        random = [c for c in sets.cells if c.label.startswith("random")]
        assert len(random) == 3
        for cell in random:
            numbers = str(cell.method.sites).removeprefix("self:").split(",")
            assert len(set(numbers)) == len(below)
        for cell in cells_of(study):
            if cell.method.sites:
                cell.method.sites.select(model.sites)

    def test_windows_and_words(self):
        first, last, within = window_study()
        assert [c.label for c in first.cells] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        assert last.cells[1].method.start == 0.2
        assert (within.cells[2].method.start, within.cells[2].method.stop) == (0.4, 0.6)
        study = cross_study(words=("edited", "others"))
        assert {c.method.words for c in cells_of(study)} == {"edited", "others"}
        with pytest.raises(ConfigError, match="among edited"):
            cross_study(words=("nouns",))

    def test_summary_is_json(self, finished):
        study = (
            (type(layer_study)("x", (), {}),)
            if False
            else layer_study(finished.lab.model.sites, every=9, random_sets=0)
        )
        results = finished.lab.run(cells_of(study), finished.cases[:2])
        text = json.dumps(summary(results, study), allow_nan=False)
        cell = json.loads(text)[0]["cells"][0]
        assert cell["groups"]["all"]["toward"]["count"] == 4
        assert set(cell["groups"]) == {"all", "color", "subject"}


class TestCases:
    def test_the_papers_pairs_come_first(self):
        first = edit_cases(4, per_source=2)
        assert [(c.value, c.wanted[0]) for c in first] == [("black", "coral"), ("dog", "rabbit")]
        assert [c.source for c in first] == ["a black car", "a dog standing in the park"]

    def test_more_pairs_begin_with_the_same(self):
        few, many = edit_cases(40), edit_cases(200)
        assert many[: len(few)] == few
        assert sum(len(c.targets) for c in many) == 200
        for attribute in ATTRIBUTES:
            assert sum(len(c.targets) for c in many if c.attribute == attribute) == 100
        assert all(c.value not in c.wanted and len(set(c.wanted)) == len(c.wanted) for c in many)

    def test_too_few(self):
        with pytest.raises(ConfigError, match="cannot be made"):
            edit_cases(1)


class TestScorers:
    def test_masks(self):
        a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
        a[:2], b[1:3] = True, True
        assert iou(a, b) == pytest.approx(4 / 12)
        assert iou(a, a) == 1
        assert math.isnan(iou(np.zeros_like(a), b))

    def test_pixels_at_both_ends(self):
        rng = np.random.default_rng(0)
        source, plain = (
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(2)
        )
        case = edit_cases(2, per_source=2)[0]
        view = View(case=case, source=source, plain=[plain] * 2, edited=[source, plain])
        stayed, went = PixelScorer()(view)
        assert stayed == {"toward": 0, "edges": pytest.approx(1)}
        assert went["toward"] == 1
        assert abs(went["edges"]) < 0.5
        same = View(case=case, source=source, plain=[source], edited=[source])
        assert math.isnan(PixelScorer()(same)[0]["toward"])

    def test_the_judge_on_rendered_edits(self):
        """Edits with known truth: the ideal one, none at all, and one that moves."""
        from freeprompt.world import parse_scene

        color, subject = edit_cases(2, per_source=2)
        scene = parse_scene("a black car on the street", seed=1)
        picture = lambda s: Image.fromarray(s.render(64).image)  # noqa: E731
        ideal, moved = scene.edited(color="coral"), scene.edited(color="coral", x=0.35, scale=0.5)
        scores = JudgeScorer()(
            View(
                case=color,
                source=picture(scene),
                plain=[],
                edited=[picture(ideal)],
            )
        )[0]
        assert scores["success"] == scores["recognised"] == 1
        assert scores["stays"] == 0
        assert scores["iou"] > 0.85
        undone = JudgeScorer()(
            View(case=color, source=picture(scene), plain=[], edited=[picture(scene)])
        )[0]
        assert (undone["success"], undone["stays"], undone["kept"]) == (0, 1, 1)
        assert undone["drift"] == 0
        assert scores["drift"] > 25  # black to coral
        away = JudgeScorer()(
            View(case=color, source=picture(scene), plain=[], edited=[picture(moved)])
        )[0]
        assert away["iou"] < scores["iou"]
        dog = parse_scene("a dog standing in the park", seed=2)
        rabbit = dog.edited(subject="rabbit")
        found = JudgeScorer()(
            View(case=subject, source=picture(dog), plain=[], edited=[picture(rabbit)])
        )[0]
        assert (found["success"], found["recognised"]) == (1, 1)

    def test_which_scorer(self):
        assert scorer_for("emoji-sd").name == "judge"
        assert scorer_for("some/where").name == "pixels"
        assert scorer_for("some/where", "judge").name == "judge"
        with pytest.raises(ConfigError, match="scorer 'clip'"):
            scorer_for("emoji-sd", "clip")


def test_recognised_pairs_are_told_apart(finished):
    rows = [
        type(r)(**{**r.__dict__, "scores": {"toward": i, "recognised": float(i > 2)}})
        for i, r in enumerate(finished.rows(PLAIN))
    ]
    assert len(chosen(rows, recognised=True)) == 3
    assert {r.attribute for r in chosen(rows, "color")} == {"color"}
    assert isinstance(PLAIN, Cell)
    assert set(groups(finished, PLAIN)) == {"all", "color", "subject"}
