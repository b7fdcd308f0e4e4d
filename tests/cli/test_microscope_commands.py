"""`probe`, `ablate`, `search` and `claims` on the small model."""

import json

import pytest

pytest.importorskip("matplotlib")


def test_probe(freeprompt, here):
    words = ("probe", "--model", "small", "--samples", 2, "--steps", 2, "--at", 2, "--folds", 2)
    more = (
        "--updates",
        5,
        "--layers",
        "4",
        "--maps",
        "cross",
        "--maps",
        "self",
        "--token",
        "color",
    )
    ended = freeprompt(*words, *more, "-o", "p")
    assert ended.code == 0, ended.err
    assert "2 seeds x 10 classes: at most 120 sample-forwards" in ended.out
    assert "cross-attention maps of 'color'" in ended.out
    assert "self-attention maps" in ended.out
    data = json.loads((here / "p" / "probe.json").read_text())
    assert len(data["readings"]) == 2 * (6 + 5)
    assert (here / "p" / "probe.png").stat().st_size > 5000
    again = freeprompt(*words, *more, "-o", "p", "--json")
    assert json.loads(again.out)["readings"] == data["readings"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layers", "a"), "6,7,16"),
        (("--task", "shape"), "probe task 'shape'"),
        (("--samples", 1), "at least 2"),
        (("--samples", 4), "4 seeds cannot be split into 5 folds"),
        (("--pool", 0), "at least 1 cell"),
        (("--updates", 0), "--updates"),
    ],
)
def test_probe_refuses_before_it_loads(freeprompt, words, message):
    ended = freeprompt("probe", "--model", "no/such", *words)
    assert ended.code == 2
    assert message in ended.err


def test_probe_refuses_a_missing_layer_before_it_collects(freeprompt, here):
    words = ("--samples", 2, "--folds", 2, "--steps", 2, "--at", 1, "--layers", 99, "-o", "p")
    ended = freeprompt("probe", "--model", "small", *words)
    assert ended.code == 2
    assert "There is no cross layer 99" in ended.err
    assert not (here / "p").exists()


SMALL = ("--model", "small", "--pairs", 2, "--per-source", 1, "--steps", 2)


@pytest.mark.parametrize(
    ("study", "more", "series"),
    [
        (
            "layers",
            ("--every", 4),
            ["one layer", "layers 1 to", "layers to the last, from", "sets"],
        ),
        (
            "windows",
            ("--sites", "self:1"),
            ["first steps, share", "last steps, from", "steps within"],
        ),
        ("cross", ("--words", "edited"), ["maps of words: edited"]),
    ],
)
def test_ablate(freeprompt, here, study, more, series):
    ended = freeprompt("ablate", study, *SMALL, *more, "-o", "a")
    assert ended.code == 0, ended.err
    assert "interventions x 2 pairs, about" in ended.out
    data = json.loads((here / "a" / "results.json").read_text())
    assert [one["title"] for one in data["series"]] == series
    assert data["scorer"] == "pixels"
    assert data["series"][0]["cells"][0]["groups"]["all"]["toward"]["count"] == 2
    for name in ("curves.png", "grid-1.png"):
        assert (here / "a" / name).exists()
    again = freeprompt("ablate", study, *SMALL, *more, "-o", "a")
    assert "about 0 sample-forwards" in again.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("layers", "--kind", "slef"), "did you mean 'self'"),
        (("layers", "--words", "edited"), "--words edited would have no effect"),
        (("layers", "--steps", 0), "--steps"),
        (("cross", "--sites", "self:all"), "--sites are cross-attention here"),
    ],
)
def test_ablate_refuses_what_would_be_ignored(freeprompt, words, message):
    ended = freeprompt("ablate", words[0], *SMALL, *words[1:], "-o", "a")
    assert ended.code == 2 and message in ended.err and ended.out == ""


def test_search(freeprompt, here):
    ended = freeprompt("search", "layers", *SMALL, "--first", 1, "-o", "s")
    assert ended.code == 0, ended.err
    assert "The paper's choice (self:below-top, 0.8) is" in ended.out
    data = json.loads((here / "s" / "search.json").read_text())
    assert data["evaluations"] <= data["exhaustive"]
    assert (here / "s" / "search.png").exists()


def test_claims_are_written_from_results(freeprompt, here):
    ended = freeprompt("claims", "--write", "--document", "d/claims.md")
    assert ended.code == 0, ended.err
    assert "not measured yet" in (here / "d" / "claims.md").read_text()
    refused = freeprompt("claims", "R77", "--model", "no/such")
    assert refused.code == 2
    assert "claim 'R77'" in refused.err
