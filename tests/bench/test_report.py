"""The report: tables that say what the rows say, one page that needs nothing else."""

import re

import pytest
from PIL import Image

from freeprompt.bench.document import Photo, Table, write_html, write_markdown
from freeprompt.bench.plot import Axis, Point, pareto, scatter, ticks
from freeprompt.bench.report import build, without_common_steps
from freeprompt.bench.scores import SCORES
from freeprompt.bench.store import Store
from freeprompt.bench.table import Results, headline
from freeprompt.errors import ConfigError
from freeprompt.images import write_json

ABOUT = {
    "dataset": "Made up",
    "model": "none",
    "fingerprint": "0abc",
    "device": "cpu",
    "dtype": "float32",
    "versions": {"python": "3"},
    "machine": "a desk",
    "processes": 1,
    "skipped": {"CLIP": "CLIP weights cannot be loaded from 'nowhere'."},
    "notes": ["made by hand"],
    "thresholds": {},
    "commands": ["freeprompt bench run made-up"],
}


def row(label, item, right, **more):
    failed = [] if right else ["success"]
    scores = {"right": right, "success": right, "kept": 1.0, "layout": 0.9, "background_psnr": 25.0}
    return {
        "key": f"{label}-{item}",
        "item": item,
        "track": "real",
        "cell": "color" if int(item) % 2 else "place",
        "label": label,
        "source": "a red car",
        "target": "a <blue> car",
        "contender": {"method": label.split()[0]},
        "scores": {**scores, "sample_forwards": 190, "seconds": 1.5},
        "failed": failed,
        "error": None,
        "pictures": {"source": "s.png", "edited": "e.png"},
        **more,
    }


def crash(label, item):
    broken = {"error": "ValueError: no", "scores": {}, "failed": [], "pictures": {}}
    return row(label, item, 0.0, **broken)


@pytest.fixture
def store(tmp_path) -> Store:
    rows = [row("fpe", str(i), float(i < 4)) for i in range(10)]
    rows += [row("p2p (tuned)", str(i), float(i < 7)) for i in range(10)]
    rows += [row("copy", str(i), 0.0) for i in range(10)]
    rows += [crash("sdedit", str(i)) if i < 5 else row("sdedit", str(i), 1.0) for i in range(10)]
    found = Store(tmp_path / "run")
    with found.writing() as writer:
        for one in rows:
            writer.append(one)
    write_json(found.folder / "run.json", ABOUT)
    (found.folder / "pictures").mkdir()
    for name in ("s.png", "e.png"):
        Image.new("RGB", (64, 64), "red").save(found.folder / "pictures" / name)
    return found


def test_the_best_comes_first_and_errors_count_as_wrong(store) -> None:
    results = Results(tuple(store.rows()))
    assert results.ranked() == ("p2p (tuned)", "sdedit", "fpe", "copy")
    assert results.by("sdedit").mean("right").value == 0.5
    assert results.by("sdedit").mean("layout").count == 5
    assert results.by("sdedit").errors == 5


def test_the_tables_hold_the_figures(store) -> None:
    tables = [block for block in build(store) if isinstance(block, Table)]
    board = tables[0]
    assert board.head[:2] == ("method", "right (%) ↑")
    assert [line[0] for line in board.rows] == ["p2p (tuned)", "sdedit", "fpe", "copy"]
    assert board.rows[2][1].startswith("40.0 [")
    assert board.rows[1][-1] == "5"
    assert board.strong == {2}
    versus = tables[1]
    assert versus.head[1:3] == ("fpe", "p2p (tuned)")
    assert versus.rows[0][0] == "place"
    cells = next(t for t in tables if t.head[0] == "right (%) ↑")
    assert dict(zip(cells.head, cells.rows[2], strict=True)) == {
        "right (%) ↑": "fpe",
        "place": "40.0",
        "color": "40.0",
    }


def test_where_ours_loses_is_said(store, tmp_path) -> None:
    write_markdown(build(store), tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "fpe against p2p (tuned), the best of the others" in text
    assert "(0 won, 3 lost, 7 alike)" in text
    assert "-30.0 [" in text


def test_an_uneven_table_says_so(store, tmp_path) -> None:
    write_markdown(build(store), tmp_path / "even.md")
    with store.writing() as writer:
        writer.append(row("fpe (tuned)", "77", 1.0))
    write_markdown(build(store), tmp_path / "uneven.md")
    words = "Not every contender has been tried on the same items"
    assert words not in (tmp_path / "even.md").read_text()
    text = (tmp_path / "uneven.md").read_text()
    assert words in text
    assert "They have no item in common yet" in text
    assert "**fpe (tuned)**" in text


def test_the_page_needs_nothing_else(store, tmp_path) -> None:
    write_html(build(store), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert page.count("<svg") == 3
    for words in ("freeprompt bench run made-up", "CLIP weights cannot be loaded", "made by hand"):
        assert words in page.replace("&#x27;", "'")
    assert "a &lt;blue&gt; car" in page or "<blue>" not in page
    assert "5 × sdedit: ValueError: no" in page


def test_markdown_brings_its_pictures(store, tmp_path) -> None:
    write_markdown(build(store), tmp_path / "deep" / "board.md")
    text = (tmp_path / "deep" / "board.md").read_text()
    files = re.findall(r"\]\((board/[^)]+)\)", text)
    assert len(files) >= 3 + 4
    assert all((tmp_path / "deep" / file).is_file() for file in files)
    assert "**fpe**" in text


def test_examples_are_the_best_and_the_worst(store) -> None:
    best, worst = Results(tuple(store.rows())).by("fpe").examples(3)
    assert [r["failed"] for r in best] == [[]] * 3
    assert [r["failed"] for r in worst] == [["success"]] * 3
    assert {r["cell"] for r in best} == {"color", "place"}


def test_comparison_uses_shared_items_only(store) -> None:
    results = Results(tuple(store.rows()))
    half = results.where(lambda r: r["label"] != "fpe" or r["item"] in "0123")
    paired = half.compared("fpe", "copy", "right")
    assert (paired.first, paired.wins, paired.difference.count) == (1, 4, 4)
    with pytest.raises(ConfigError, match="did you mean 'fpe'"):
        results.compared("fpee", "copy", "right")
    with pytest.raises(ConfigError, match="Unknown score 'rigt'"):
        results.compared("fpe", "copy", "rigt")
    with pytest.raises(ConfigError, match="no item in common"):
        results.compared("fpe", "copy", "clip")


def test_headline_names_only_what_there_is(store) -> None:
    names = headline(Results(tuple(store.rows())))
    assert names[0] == "right"
    assert "ideal_psnr" not in names
    assert set(names) <= set(SCORES)


def test_the_front_is_what_nobody_beats() -> None:
    points = [
        Point(label="a", x=1, y=5),
        Point(label="b", x=2, y=4),
        Point(label="c", x=2, y=3),
        Point(label="d", x=3, y=1),
        Point(label="ideal", x=9, y=9, baseline=True),
    ]
    up, down = Axis(title="x"), Axis(title="x", higher=False)
    assert [p.label for p in pareto(points, up, Axis(title="y"))] == ["a", "b", "d"]
    assert [p.label for p in pareto(points, down, Axis(title="y"))] == ["a"]


def test_plots_are_well_formed_and_hold_every_name() -> None:
    from xml.etree import ElementTree

    points = [Point(label=f"<m{i}> & co", x=1.0, y=float(i)) for i in range(12)]
    drawing = ElementTree.fromstring(scatter(points, Axis(title="x"), Axis(title="y")))
    texts = [t.text for t in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert all(p.label in texts for p in points)


def test_an_empty_run_has_no_report(tmp_path) -> None:
    write_json(tmp_path / "run.json", ABOUT)
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no results"):
        build(Store(tmp_path))


def stepped(label, steps):
    contender = {"method": label.split()[0]} | ({"steps": steps} if steps else {})
    return row(label, "1", 1.0, contender=contender)


def test_steps_that_all_have_are_said_once() -> None:
    labels = ("fpe (steps=20)", "p2p (tuned, steps=20)", "pnp (steps=20, guidance=5)")
    rows = (*(stepped(label, 20) for label in labels), stepped("turbo-edit", None))
    rows += ({**stepped("fpe", None), "track": "generated"},)  # it may be said on one track alone
    short, said = without_common_steps(Results(rows))
    assert short.labels == ("fpe", "p2p (tuned)", "pnp (guidance=5)", "turbo-edit")
    assert said.startswith("20 steps, but for")
    for more in (stepped("fpe", None), stepped("sdedit (steps=10)", 10)):
        mixed = Results((*rows, more))
        assert without_common_steps(mixed) == (mixed, "")


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0.55, 0.95), [0.6, 0.7, 0.8, 0.9]),
        ((6.1, 99.4), [25.0, 50.0, 75.0]),
        ((-1.0, 1.0), [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ((22.5, 42.2), [25, 30, 35, 40]),
        ((1000.0, 4500.0), [1000, 2000, 3000, 4000]),
    ],
)
def test_axes_have_round_values(span, expected) -> None:
    assert ticks(*span) == pytest.approx(expected)


def written(folder, rows, **about) -> Store:
    found = Store(folder)
    with found.writing() as writer:
        for one in rows:
            writer.append(one)
    write_json(found.folder / "run.json", {**ABOUT, **about})
    return found


def test_a_run_in_which_nothing_went_well_has_a_report(tmp_path) -> None:
    store = written(tmp_path / "run", [crash("fpe", "1"), crash("sdedit", "2")])
    write_html(build(store), tmp_path / "r.html")
    write_markdown(build(store), tmp_path / "r.md")
    assert "1 × fpe: ValueError: no" in (tmp_path / "r.md").read_text()


def test_damaged_pictures_are_left_out(store, tmp_path) -> None:
    for damage in (b"", b"no picture"):
        (store.folder / "pictures" / "e.png").write_bytes(damage)
        assert not any(isinstance(block, Photo) for block in build(store))


def test_texts_of_others_stay_texts(tmp_path) -> None:
    label = "fpe <script>alert(1)</script>\n| x |"
    rows = [row(label, "0", 1.0), {**crash(label, "1"), "error": "E: <class 'int'>\n# no\n* no"}]
    blocks = build(written(tmp_path / "run", rows))
    write_html(blocks, tmp_path / "r.html")
    write_markdown(blocks, tmp_path / "r.md")
    page, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()
    assert "<script>" not in page + text
    assert "\n# no" not in text and "\n* no" not in text
    assert "E: &lt;class 'int'> # no * no" in text
    board = [line for line in text.splitlines() if line.startswith("| **fpe")]
    assert len({re.sub(r"\\\|", "", line).count("|") for line in board[:1]}) == 1
    assert board[0].startswith(r"| **fpe &lt;script>alert(1)&lt;/script> \| x \|** | ")
