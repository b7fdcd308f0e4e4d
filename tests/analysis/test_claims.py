"""Claims: rules decide, and the document says what the results files say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from freeprompt.analysis.claims import report, run
from freeprompt.analysis.claims.base import QUICK, Budget, Check, Table, Tables, verdict
from freeprompt.analysis.claims.compared import rule_r9, rule_r11, rule_search
from freeprompt.analysis.claims.edits import rule_r4, rule_r5, rule_r6, rule_r7
from freeprompt.analysis.claims.exact import rule_r0, rule_r8
from freeprompt.analysis.claims.maps import rule_r1, rule_r2, rule_r3
from freeprompt.analysis.statistics import Estimate
from freeprompt.errors import ConfigError

ROOT = Path(__file__).parents[2]


def about(value, half=0.05):
    return Estimate(value=value, low=value - half, high=value + half, count=200, seeds=50)


def tables(**by_title):
    return Tables([Table(title=t.replace("_", " "), rows=rows) for t, rows in by_title.items()])


def held(checks):
    return [check.holds for check in checks]


def test_verdicts():
    yes, no = Check(statement="", holds=True), Check(statement="", holds=False)
    assert verdict([yes, yes]) == "holds"
    assert verdict([yes, no]) == "holds in part"
    assert verdict([no, no]) == verdict([]) == "does not hold"


def r4(color, animals, curve):
    title = "share of the steps"
    rows = {
        str(i): {"success": about(v), "Δ success": about(v - curve[0])} for i, v in enumerate(curve)
    }
    return Tables(
        [
            Table(title=f"{title}, colour", rows={"1": {"Δ success": about(color)}}),
            Table(title=f"{title}, animals", rows={"1": {"Δ success": about(animals)}}),
            Table(title=title, rows=rows),
        ]
    )


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((-0.3, -0.2, (0.9, 0.7, 0.72)), [True, True, True]),
        ((-0.03, -0.2, (0.9, 0.7, 0.6)), [False, True, True]),  # the interval reaches over 0
        ((0.3, 0.2, (0.5, 0.7)), [False, False, False]),
        ((-0.03, 0.02, (0.8, 0.81, 0.78)), [False, False, False]),  # flat is no fall
    ],
)
def test_cross_maps_must_harm(figures, expected):
    assert held(rule_r4(r4(*figures))) == expected


def r5(**changes):
    given = {"below": (0.7, 0.85), "full": (0.8, 0.4), "random": (0.6, 0.9), "gain": 0.2}
    given |= changes
    (b_iou, b), (f_iou, f), (r_iou, r) = given["below"], given["full"], given["random"]
    rows = {
        "below-top": {
            "iou": about(b_iou),
            "success": about(b),
            "Δ iou": about(given["gain"]),
            "Δ success": about(-0.05),
        },
        "all, every step": {"iou": about(f_iou), "success": about(f)},
        "random 1": {"iou": about(r_iou), "success": about(r)},
    }
    return Tables([Table(title="sets of layers", rows=rows)])


def test_layers():
    assert held(rule_r5(r5())) == [True] * 4
    assert held(rule_r5(r5(random=(0.9, 0.95)))) == [True, True, True, False]
    assert held(rule_r5(r5(full=(0.8, 0.95), gain=0.01))) == [False, True, False, True]
    assert held(rule_r5(r5(full=(0.8, 0.84)))) == [True, True, False, True]  # lower by chance


def test_the_share():
    def sweep(*success):
        rows = {
            x: {"success": about(v), "iou": about(0.5 + 0.1 * i), "Δ iou": about(0.1 * i)}
            for i, (x, v) in enumerate(zip(("0", "0.4", "1"), success, strict=True))
        }
        titles = ("share of the steps", "share of the steps, every layer")
        return Tables([Table(title=title, rows=rows) for title in titles])

    assert held(rule_r6(sweep(0.9, 0.85, 0.5))) == [True] * 6
    assert held(rule_r6(sweep(0.9, 0.7, 0.68))) == [True, False, False] * 2


def test_words_that_stay():
    def whose(others, both):
        rows = {
            "others": {
                "success": about(others),
                "Δ success": about(others - 0.9),
                "Δ stays": about(0),
            },
            "others+padding": {"success": about(both)},
        }
        return Tables([Table(title="whose maps, all layers and steps", rows=rows)])

    assert held(rule_r7(whose(0.7, 0.4))) == [True, True]
    assert held(rule_r7(whose(0.88, 0.85))) == [False, False]


def test_methods():
    rivals = ("p2p", "p2p, share 0.8", "pnp", "masactrl", "sdedit", "diffedit")
    rows = {r: {"Δ success": about(-0.1), "Δ iou": about(0.2)} for r in rivals}
    own = {"methods against fpe, all layers": rows}
    assert held(rule_r9(tables(methods=rows, **own))) == [True] * 12
    better = {**rows, "pnp": {"Δ success": about(0.1), "Δ iou": about(0.2)}}
    found = held(rule_r9(tables(methods=better, **own)))
    assert [i for i, holds in enumerate(found) if not holds] == [2]


def test_map_against_values():
    rows = {
        "maps": {"Δ iou": about(0.4), "Δ drift": about(-2, 1)},
        "keys and values": {"Δ iou": about(0.1), "Δ drift": about(-30, 5)},
    }
    title = "taken from the source, colour"
    assert held(rule_r11(Tables([Table(title=title, rows=rows)]))) == [True] * 3
    swapped = {"maps": rows["keys and values"], "keys and values": rows["maps"]}
    found = held(rule_r11(Tables([Table(title=title, rows=swapped)])))
    assert found == [True, True, False]
    rows["keys and values"]["Δ drift"] = about(3, 5)
    assert held(rule_r11(Tables([Table(title=title, rows=rows)]))) == [True, False, False]


def r1(raw, first, shuffled, image):
    rows = {
        "raw": {"later steps": about(raw), "first step": about(first)},
        "shuffled": {"later steps": about(shuffled)},
        "forced image": {"later steps": about(image)},
    }
    return Tables([Table(title=f"mean over layers, {t}", rows=rows) for t in ("colour", "animal")])


def test_a_probe_that_reads_the_token_holds_in_part():
    """High accuracy alone is not enough: the confounds are checks of their own."""
    assert held(rule_r1(r1(0.95, 0.5, 0.1, 0.6))) == [True, True, True] * 2
    assert held(rule_r1(r1(0.95, 0.95, 0.1, 0.11))) == [True, False, False] * 2
    assert held(rule_r1(r1(0.95, 0.5, 0.4, 0.6))) == [False, True, True] * 2


def test_self_maps_and_other_words():
    def pair(color, animal, cross):
        return Tables(
            [
                Table(
                    title="mean over layers, colour", rows={"raw": {"later steps": about(color)}}
                ),
                Table(
                    title="mean over layers, animal",
                    rows={
                        "raw": {"later steps": about(animal)},
                        "cross maps, raw": {"later steps": about(cross)},
                    },
                ),
            ]
        )

    assert held(rule_r2(pair(0.15, 0.6, 0.9))) == [True] * 3
    assert held(rule_r2(pair(0.7, 0.6, 0.5))) == [False] * 3
    assert held(rule_r2(pair(0.28, 0.3, 0.32))) == [True, False, False]  # apart by chance

    def words(article, noun):
        rows = {
            "a, raw": {"later steps": about(article)},
            "car, raw": {"later steps": about(noun)},
        }
        return Tables([Table(title="mean over layers", rows=rows)])

    assert held(rule_r3(words(0.1, 0.8))) == [True, True]
    assert held(rule_r3(words(0.7, 0.6))) == [False, False]


def test_exact_and_real():
    rows = {"a": {"largest difference": 1e-5}, "b (must differ)": {"largest difference": 0.5}}
    assert held(rule_r0(tables(equalities=rows))) == [True, True]
    rows = {"a": {"largest difference": 0.5}, "b (must differ)": {"largest difference": 0.0}}
    assert held(rule_r0(tables(equalities=rows))) == [False, False]
    blind = {
        f"blind, prompt, guidance {g}": {"PSNR in dB": about(v)}
        for g, v in ((1, 30), (3, 20), (7.5, 12))
    }
    null = {"null-text, prompt, guidance 7.5": {"PSNR in dB": about(25)}}
    exact = {"source branch against the image's latent": {"largest difference": 0.0}}
    found = rule_r8(tables(denoised_again=blind | null, stored_latents=exact))
    assert held(found) == [True] * 3


def test_the_search_is_read():
    rows = {
        "paper's choice on the front": {"value": 0.0},
        "candidates surely better in both": {"value": 2.0},
    }
    assert held(rule_search(tables(search=rows))) == [False, False]


def test_tables_survive_json():
    table = Table(title="t", rows={"a": {"x": about(0.5), "n": 3.0}, "b": {"word": "yes"}})
    again = Table.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again == table
    assert Tables([table]).figure("t", "a", "n").value == 3
    assert Tables([table]).labels("t") == ["a", "b"]
    with pytest.raises(ConfigError, match="no 'y' of 'a' in 't'"):
        Tables([table]).figure("t", "a", "y")


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    settings = {"model": "emoji-sd", "fingerprint": "0123456789abcdef", "picture": "R4.png"}
    claim = next(c for c in run.CLAIMS if c.name == "R4")
    found = r4(-0.3, -0.2, (0.93, 0.71)).tables
    report.save(claim, found, replace(Budget(), pairs=240), settings, folder)
    return folder


def test_the_document_shows_the_results(results, tmp_path):
    run.write(results, tmp_path / "docs" / "images" / "claims", tmp_path / "docs" / "claims.md")
    text = (tmp_path / "docs" / "claims.md").read_text(encoding="utf-8")
    assert "`freeprompt claims R4 --pairs 240 --curve 48 --steps 50 --samples 40`" in text
    assert "0.93 [0.88, 0.98]" in text
    assert "weights 0123456789ab" in text
    assert "![The edited word's cross maps must not be replaced](images/claims/R4.png)" in text
    assert "**holds**" in text
    assert text.count("Not measured yet.") == len(run.CLAIMS) - 1
    assert "quick" not in text
    for claim in run.CLAIMS:
        assert f"## {claim.name} " in text


def test_a_quick_run_is_marked(results, tmp_path):
    claim = next(c for c in run.CLAIMS if c.name == "R4")
    settings = {"model": "emoji-sd", "fingerprint": "0123456789abcdef", "picture": None}
    report.save(claim, r4(0.3, 0.2, (0.5, 0.7)).tables, QUICK, settings, results)
    text = report.document(run.CLAIMS, results, "images")
    assert "**Quick runs** (R4): 8 pairs, fewer than the 200 of a full run" in text
    assert "*quick run: 0 of 3 checks hold, too few pairs for a verdict*" in text
    assert "does not hold on emoji-sd**" not in text  # a verdict needs more than eight pairs
    assert "`freeprompt claims R4 --quick`" in text


def test_the_page_is_what_the_results_give_and_every_table_has_figures():
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    made = report.document(run.CLAIMS, ROOT / "results" / "claims", "images/claims", maps=True)
    assert page == made
    assert "|---|---|" in page
    assert "|---|" not in page.splitlines()  # a table of labels alone


def test_claims_by_name():
    assert [c.name for c in run.CLAIMS] == [*(f"R{i}" for i in range(12)), "search"]
    assert [c.name for c in run.chosen(["R9", "R1"])] == ["R1", "R9"]
    assert run.chosen([]) == list(run.CLAIMS)
    with pytest.raises(ConfigError, match="claim 'R12'"):
        run.chosen(["R12"])
