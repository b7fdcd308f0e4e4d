"""The notation of `freeprompt.core.sites`, on Stable Diffusion 1's anatomy."""

from dataclasses import replace

import pytest

from freeprompt.core import Site, Sites
from freeprompt.core.sites import KINDS, describe
from freeprompt.errors import BadSiteExpression, ConfigError, ControlNeverFired
from freeprompt.models.tiny import tiny_sd
from freeprompt.models.walk import unet_sites

BELOW_TOP = [*range(3, 14)]


@pytest.fixture(scope="module")
def known():
    return unet_sites(tiny_sd().unet)


def layers(expression, known):
    return [site.index for site in Sites(expression).select(known)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("self:below-top", BELOW_TOP),
        ("self:3-13", BELOW_TOP),
        ("self:paper", BELOW_TOP),
        ("self:top", [1, 2, 14, 15, 16]),
        ("self:all", [*range(1, 17)]),
        ("self:*", [*range(1, 17)]),
        ("self:7", [7]),
        ("self:1", [1]),
        ("self:16", [16]),
        ("self:7-7", [7]),
        ("cross:down.2,up.1", [5, 6, 8, 9, 10]),
        ("cross:mid", [7]),
        ("self:up.1.0", [8]),
        ("self:up.*.0", [8, 11, 14]),
        ("self:scale.1", [1, 2, 14, 15, 16]),
        ("self:scale.2", [3, 4, 11, 12, 13]),
        ("self:scale.4", [5, 6, 8, 9, 10]),
        ("self:scale.8", [7]),
        ("self:all,!mid", [*range(1, 7), *range(8, 17)]),
        ("self:all,!mid,7", [*range(1, 17)]),
        ("self:below-top,!scale.4,!7", [3, 4, 11, 12, 13]),
        ("self:all,!paper", [1, 2, 14, 15, 16]),
        ("self:7,!3-8,up.3.2", [16]),
        (" self : 3 - 5 , 7 ", [3, 4, 5, 7]),
        ("cross:coarsest", [5, 6, 8, 9, 10]),
        ("self:after.0.625", [*range(11, 17)]),
        ("self:after.0.5", [*range(9, 17)]),
        ("self:after.0", [*range(1, 17)]),
        ("self:up.-1", [14, 15, 16]),
        ("self:up.-3.1", [9]),
        ("feature:down.-1.0", [7]),
        ("none", []),
    ],
)
def test_every_form_selects_what_the_docstring_says(expression, expected, known):
    chosen = Sites(expression).select(known)
    assert [site.index for site in chosen] == expected
    assert {site.kind for site in chosen} <= {expression.strip().partition(":")[0].strip()}


def test_parts_apply_from_left_to_right(known):
    """`mid` is removed and then added again: a removal does not outlive the parts after it."""
    assert layers("self:7,!mid,mid", known) == [7]


def test_plus_joins_kinds(known):
    chosen = Sites("self:7+cross:16,1").select(known)
    assert [site.name for site in chosen] == ["down.0.0.cross", "mid.0.self", "up.3.2.cross"]


def test_kinds_are_mixed_in_execution_order_and_not_by_number(known):
    chosen = Sites("self:7,8+feature:9").select(known)
    assert [site.name for site in chosen] == ["mid.0.feature", "mid.0.self", "up.1.0.self"]


def test_a_removal_reaches_only_its_own_kind(known):
    chosen = Sites("self:all+cross:all,!mid").select(known)
    missing = {s for s in known if s.kind in ("self", "cross")} - set(chosen)
    assert [site.name for site in missing] == ["mid.0.cross"]


def test_sites_come_in_execution_order_whatever_the_order_of_the_parts(known):
    assert layers("self:up.3,13,down.0,7", known) == [1, 2, 7, 13, 14, 15, 16]


def test_convolution_features_have_places_too(known):
    assert [s.path for s in Sites("feature:up.1.1").select(known)] == [
        "up_blocks.1.resnets.1.conv2"
    ]


def test_a_block_name_is_no_mere_prefix():
    """`up.1` means `up.1.*`, not `up.10.*`; `double.*` reads the blocks of transformer models."""
    names = ("up.1.0", "up.10.0", "double.0", "double.1", "single.0")
    known = [
        Site(kind="joint", block=name, index=i, scale=1, halvings=0, path=name)
        for i, name in enumerate(names, start=1)
    ]
    assert layers("joint:up.1", known) == [1]
    assert layers("joint:double.*", known) == [3, 4]
    assert layers("joint:double", known) == [3, 4]


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_the_papers_numbers_are_refused_on_another_anatomy(kind, known):
    of_kind = [site for site in known if site.kind == kind]
    assert layers(f"{kind}:paper", known) == BELOW_TOP
    with pytest.raises(BadSiteExpression, match=r"layers 4-14.*'other' has 15.*self:below-top"):
        Sites(f"{kind}:paper").select(of_kind[:15], "other")
    with pytest.raises(BadSiteExpression, match=r"has 17 of this kind"):
        Sites(f"{kind}:paper").select([*of_kind, replace(of_kind[0], index=17)], "other")


def test_the_papers_numbers_count_from_the_output_side(known):
    """Counted forwards, 4-14 would drop layer 3 and add layer 14 of the finest grid."""
    paper = Sites("self:paper").select(known)
    assert paper == Sites("self:3-13").select(known) != Sites("self:4-14").select(known)
    assert len(paper) == 11


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("self:up.0", "'up.0'"),
        ("self:below-top,down.3", "'down.3'"),
        ("self:all,!scale.3", "'scale.3'"),
        ("cross:doesnt.exist", "'doesnt.exist'"),
    ],
)
def test_a_part_that_selects_nothing_says_what_there_is(expression, part, known):
    with pytest.raises(ControlNeverFired) as error:
        Sites(expression).select(known, "toy")
    message = str(error.value)
    assert part in message and repr(expression) in message and "'toy'" in message
    assert "1-16 (down.0.0 ... up.3.2)" in message


def test_a_kind_that_the_model_lacks_is_said_so(known):
    with pytest.raises(ControlNeverFired, match=r"'all' in 'joint:all'.*no site of that kind"):
        Sites("joint:all").select(known, "toy")


def test_a_selection_that_removes_everything_is_an_error(known):
    with pytest.raises(
        ControlNeverFired, match=r"'self:mid,!7' selects no site of 'toy' in the end"
    ):
        Sites("self:mid,!7").select(known, "toy")


@pytest.mark.parametrize(("expression", "asked"), [("self:3-99", "99"), ("self:16-17", "17")])
def test_a_range_beyond_the_last_layer_is_refused(expression, asked, known):
    with pytest.raises(BadSiteExpression, match=rf"{expression}.*layer {asked}.*'toy'.*self:1-16 "):
        Sites(expression).select(known, "toy")


@pytest.mark.parametrize("expression", ["self:17", "self:17-20", "self:all,!99"])
def test_layers_that_all_lie_beyond_the_last_one_are_refused(expression, known):
    with pytest.raises((BadSiteExpression, ControlNeverFired), match=r"'toy'.*self:1-16 "):
        Sites(expression).select(known, "toy")


@pytest.mark.parametrize(
    "expression",
    [
        *("", " ", "self", "self:", ":all", "all", "selfs:all", "Self:all", "self:UP", "self:!"),
        *("self:3-", "self:-3", "self:3..5", "self:all,", "self:,all", "self:all,,mid"),
        *("self:all+", "+self:all", "self:all+none", "none,mid", "self:all;mid", "self:up[1]"),
        *("self:1.5", "self:3-5-7", "self=all"),
    ],
)
def test_what_cannot_be_read_is_quoted_with_the_notation(expression):
    with pytest.raises(BadSiteExpression) as error:
        Sites(expression)
    assert repr(expression) in str(error.value)
    assert "self:below-top" in str(error.value) and ", ".join(KINDS) in str(error.value)
    assert isinstance(error.value, ConfigError)


@pytest.mark.parametrize("part", ["0", "0-3", "5-3"])
def test_layers_count_from_one_and_upwards(part):
    with pytest.raises(BadSiteExpression, match=f"count from 1.*'{part}' in 'self:{part}'"):
        Sites(f"self:{part}")


@pytest.mark.parametrize("value", [None, 3, ["self:all"], Sites("self:all")])
def test_only_text_is_an_expression(value):
    with pytest.raises(BadSiteExpression, match="given as text, got"):
        Sites(value)


def test_a_selection_is_a_value():
    assert Sites("self:all") == Sites("self:all") != Sites("self:*")
    assert len({Sites("self:all"), Sites("self:all")}) == 1
    assert str(Sites("self:3-13")) == "self:3-13"
    assert eval(repr(Sites("self:3-13"))) == Sites("self:3-13")
    assert bool(Sites("self:all")) and not bool(Sites("none"))


def test_the_summary_names_the_ends_of_each_kind(known):
    assert describe(s for s in known if s.kind != "feature") == (
        "self:1-16 (down.0.0 ... up.3.2), cross:1-16 (down.0.0 ... up.3.2)"
    )


def test_grids_of_a_picture_that_is_not_square(known):
    """136x200 pixels are 17x25 latent cells; each halving rounds up."""
    grids = [site.grid(17, 25) for site in Sites("self:1,3,5,7").select(known)]
    assert grids == [(17, 25), (9, 13), (5, 7), (3, 4)]
    assert [h * w for h, w in grids] == [425, 117, 35, 12]


def test_names_are_unique(known):
    assert len({site.name for site in known}) == len(known)
