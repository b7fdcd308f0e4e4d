"""Batch layouts: which row is what, and the way in and out of a batch."""

import inspect

import pytest
import torch
from tests.core.handmade import randn

from freeprompt.core import PAIR, SOURCE, TARGET, TRIPLE, Row, Rows, Text
from freeprompt.errors import ConfigError, MissingSource


def written(rows):
    """`us ut0 ct0`: half (conditional, unconditional), branch, item of the target."""
    return " ".join(
        f"{'c' if r.conditional else 'u'}{'s' if r.branch == 'source' else f't{r.item}'}"
        for r in rows
    )


def test_the_named_layouts():
    assert written(PAIR) == "us ut0 cs ct0"
    assert written(TRIPLE) == "cs ut0 ct0"
    assert written(TARGET) == "ut0 ct0"
    assert written(SOURCE) == "cs"
    assert [len(rows) for rows in (PAIR, TRIPLE, TARGET, SOURCE)] == [4, 3, 2, 1]
    assert PAIR.branches == TRIPLE.branches == ("source", "target")
    assert TARGET.branches == ("target",) and SOURCE.branches == ("source",)


def test_several_targets_share_one_source_and_halves_stay_together():
    assert written(PAIR.with_targets(3)) == "us ut0 ut1 ut2 cs ct0 ct1 ct2"
    assert written(TRIPLE.with_targets(2)) == "cs ut0 ut1 ct0 ct1"
    assert PAIR.with_targets(1) == PAIR
    assert SOURCE.with_targets(5) == SOURCE


def test_rows_are_dropped_by_half_and_branch():
    assert written(PAIR.without(half="uncond")) == "cs ct0"
    assert written(PAIR.without(half="cond")) == "us ut0"
    assert written(PAIR.without(branch="source")) == "ut0 ct0"
    assert written(PAIR.without(branch="source", half="uncond")) == "ut0 cs ct0"
    assert written(TRIPLE.with_targets(2).without(half="uncond")) == "cs ct0 ct1"


def test_dropping_both_halves_is_not_dropping_one():
    """`Half` has three values; a third that acted like the second would lose rows in silence."""
    try:
        left = PAIR.without(branch="source", half="both")
    except ConfigError:
        return
    assert written(left) == "ut0 ct0"


def test_rows_are_found_by_branch_and_half():
    rows = PAIR.with_targets(2)
    assert rows.targets() == rows.find("target") == (1, 2, 4, 5)
    assert rows.targets("cond") == (4, 5) and rows.targets("uncond") == (1, 2)
    assert rows.sources() == (0, 3)
    assert rows.sources("cond") == (3,) and rows.sources("uncond") == (0,)
    assert TARGET.sources() == () and SOURCE.targets("cond") == ()


def test_an_unknown_half_is_refused():
    """Unwrapped, because under pytest the shape checker refuses it before the code can."""
    with pytest.raises(ConfigError, match=r"half must be one of cond, uncond, both; got 'left'"):
        inspect.unwrap(Rows.find)(PAIR, "target", "left")


def test_a_row_takes_from_the_source_of_its_own_half_or_the_only_one():
    rows = PAIR.with_targets(2)
    assert [rows.source_of(i) for i in range(6)] == [0, 0, 0, 3, 3, 3]
    assert [TRIPLE.source_of(i) for i in range(3)] == [0, 0, 0]


def test_without_a_source_row_there_is_nothing_to_take():
    with pytest.raises(MissingSource, match=r"no source row.*record a tape"):
        TARGET.source_of(1)


def test_latents_are_laid_out_row_by_row():
    source, targets = randn(1, 4, 2, 3), randn(2, 4, 2, 3, seed=1)
    batch = PAIR.with_targets(2).spread({"source": source, "target": targets})
    wanted = [source[0], targets[0], targets[1], source[0], targets[0], targets[1]]
    assert torch.equal(batch, torch.stack(wanted))


def text(*values):
    """Prompts whose states and extras are recognisable numbers."""
    states = torch.stack([torch.full((3, 2), float(value)) for value in values])
    return Text(states, {"pooled": torch.tensor([[10.0 * value] for value in values])})


def read(embedded):
    states, pooled = embedded.states[:, 0, 0].tolist(), embedded.extras["pooled"][:, 0].tolist()
    return [*zip(states, pooled, strict=True)]


def test_every_row_gets_its_prompt_or_null():
    prompts = {"source": text(1), "target": text(2, 3)}
    rows = PAIR.with_targets(2)
    assert read(rows.embeddings(prompts, text(9))) == [
        *((9, 90), (9, 90), (9, 90)),
        *((1, 10), (2, 20), (3, 30)),
    ]


def test_null_may_differ_between_targets():
    prompts = {"source": text(1), "target": text(2, 3)}
    found = read(TARGET.with_targets(2).embeddings(prompts, text(8, 9)))
    assert [state for state, _ in found] == [8, 9, 2, 3]


def test_text_is_a_sequence_of_items():
    both = text(4, 5)
    assert len(both) == 2 and read(both[1]) == [(5, 50)]
    assert read(Text.stack([both[1], both[0]])) == [(5, 50), (4, 40)]


def test_guidance_is_the_arithmetic_of_the_halves():
    """Rows are us=1, ut0=2, ut1=3, cs=10, ct0=20, ct1=30; w=7.5."""
    values = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    guided = PAIR.with_targets(2).guide(values[:, None, None, None].expand(6, 4, 2, 2), 7.5)
    assert list(guided) == ["source", "target"]
    assert torch.equal(guided["source"], torch.full((1, 4, 2, 2), 1 + 7.5 * 9))
    assert torch.equal(guided["target"][0], torch.full((4, 2, 2), 2 + 7.5 * 18))
    assert torch.equal(guided["target"][1], torch.full((4, 2, 2), 3 + 7.5 * 27))


def test_a_branch_without_unconditional_rows_is_not_guided():
    prediction = randn(3, 4, 2, 2)
    guided = TRIPLE.guide(prediction, 7.5)
    assert torch.equal(guided["source"], prediction[:1])
    assert torch.equal(guided["target"], prediction[1:2] + 7.5 * (prediction[2:] - prediction[1:2]))
    plain = TRIPLE.without(half="uncond").guide(prediction[:2], 7.5)
    assert torch.equal(plain["target"], prediction[1:2])


def test_the_layout_decides_and_not_the_order():
    """The stock order of halves is a convention; a row says by itself what it is."""
    backwards = Rows(tuple(reversed(PAIR.rows)))
    prediction = randn(4, 4, 2, 2)
    ours, theirs = PAIR.guide(prediction, 3.0), backwards.guide(prediction.flip(0), 3.0)
    assert all(torch.equal(ours[branch], theirs[branch]) for branch in ("source", "target"))
    assert backwards.branches == ("source", "target")


def test_rows_are_values():
    assert Row("target", True) == Row("target", True, 0) != Row("target", True, 1)
    assert hash(PAIR) == hash(Rows(PAIR.rows))


def test_an_item_with_several_prompts():
    """Two prompts for the first item, one for the second: three conditional rows, two others."""
    rows = Rows(
        (
            *(Row("target", False, item) for item in (0, 1)),
            Row("target", True, 0, entry=0),
            Row("target", True, 0, entry=2),
            Row("target", True, 1, entry=1),
        )
    )
    x = {"target": torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])}
    assert rows.spread(x).flatten(1)[:, 0].tolist() == [0, 1, 0, 0, 1]
    text, null = Text(torch.arange(3.0).view(3, 1, 1)), Text(torch.full((1, 1, 1), -1.0))
    assert rows.embeddings({"target": text}, null).states.flatten().tolist() == [-1, -1, 0, 2, 1]
    assert rows.prompted("target") == ((2, 3), (4,))
    answer = torch.tensor([10.0, 20.0, 11.0, 13.0, 25.0]).view(5, 1, 1, 1)
    guided = rows.guide(answer, 2.0)["target"].flatten().tolist()
    assert guided == [10 + 2 * (1 + 3), 20 + 2 * 5]
