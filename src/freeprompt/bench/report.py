"""What a run says, as blocks: tables, plots, examples, and how it was made."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from freeprompt.bench.contenders import BASELINES
from freeprompt.bench.document import (
    Block,
    Code,
    Drawing,
    Heading,
    Photo,
    Points,
    Table,
    Text,
)
from freeprompt.bench.plot import Axis, Point, scatter
from freeprompt.bench.scores import SCORES
from freeprompt.bench.stats import Mean
from freeprompt.bench.store import Store
from freeprompt.bench.table import Results, headline, is_baseline, others
from freeprompt.bench.truth import CRITERIA
from freeprompt.errors import ConfigError, ImageError
from freeprompt.images import side_by_side
from freeprompt.picture import open_image

TITLES = {"generated": "Generated images", "real": "Real images"}
EXAMPLES = 3
OURS = "fpe"


def build(store: Store) -> list[Block]:
    """Turn the results of a run into a report.

    Raises:
        ConfigError: if there are none.
    """
    about, results = store.about(), Results(tuple(store.rows()))
    if not results.rows:
        raise ConfigError(f"There are no results in '{store.folder}' yet. Let the run go on.")
    results, common = without_common_steps(results)
    blocks: list[Block] = [Heading(f"Leaderboard: {about['dataset']}", 1), *_opening(about, common)]
    for track in results.tracks:
        blocks += _track(results.on(track), track, store.folder / "pictures")
    return [*blocks, *_ending(about, results)]


def without_common_steps(results: Results) -> tuple[Results, str]:
    """Leave out of the labels a number of steps that all have, and say it once."""
    steps = {row["contender"].get("steps") for row in results.rows} - {None}
    if len(steps) != 1:
        return results, ""
    (number,) = steps
    mark = re.compile(rf" \(steps={number}\)|(?<=\()steps={number}, |, steps={number}(?=[,)])")
    rows = tuple({**row, "label": mark.sub("", row["label"])} for row in results.rows)
    short = Results(rows)
    if any(len(short.on(t).labels) < len(results.on(t).labels) for t in results.tracks):
        return results, ""  # some have others, and would be taken for these
    return short, f"{number} steps, but for methods that are made for a number of their own. "


def _opening(about: dict[str, Any], common: str) -> Iterator[Block]:
    yield Text(
        f"Model {about['model']} (weights {about['fingerprint']}), {about['dtype']} on "
        f"{about['device']}. {common}Numbers in brackets are 95 % bootstrap intervals over items. "
        "Baselines stand among the methods: "
        + "; ".join(f"{name}: {what}" for name, what in BASELINES.items())
        + "."
    )
    limits = about.get("thresholds")
    if limits:
        yield Text(
            "An edit is right if the judge reads every wanted attribute and all the others, the "
            f"subject is where it should be (mask IoU from {limits['mask_iou']:g}, box IoU from "
            f"{limits['box_iou']:g} where it was exchanged), and, where place and style stay, the "
            f"background has {limits['background_psnr']:g} dB and a real image "
            f"{limits['ideal_psnr']:g} dB to the ideal edit. Edits that ended in an error count "
            "as wrong. PSNR is capped at 60 dB."
        )


def _track(results: Results, track: str, pictures: Path) -> Iterator[Block]:
    name = TITLES[track]
    yield Heading(name)
    if not results.even:
        yield Text(
            "Not every contender has been tried on the same items yet, so these means do not "
            "compare; let the run go on. Comparisons of two use the items that both have."
        )
    yield _leaderboard(results)
    if results.judged:
        yield from _where_lost(results)
    if len(results.cells) > 1 and headline(results):
        yield Heading("By kind of edit", 3)
        yield _per_cell(results)
    if results.judged:
        yield Heading("Criteria missed", 3)
        yield _misses(results)
    yield from _plots(results, track)
    rest = others(results)
    if rest:
        yield Heading("Other scores", 3)
        yield _scores(results, rest)
    yield from _examples(results, track, pictures)


def _leaderboard(results: Results) -> Table:
    """The main table: headline scores with intervals, cost without."""
    names = headline(results)
    rows = []
    for label in results.ranked():
        mine = results.by(label)
        cells = [_shown(mine.mean(name), name, results.judged) for name in names]
        rows.append((label, *cells, str(len(mine.rows)), str(mine.errors or "")))
    strong = frozenset(i for i, row in enumerate(rows) if _method(results, row[0]) == OURS)
    heads = [SCORES[name].head for name in names]
    return Table(("method", *heads, "edits", "errors"), tuple(rows), strong)


def _shown(mean: Mean | None, name: str, interval: bool = True) -> str:
    if mean is None:
        return "–"
    score = SCORES[name]
    text = score.show(mean.value)
    exact = name in ("sample_forwards", "seconds", "peak_mib")
    if exact or not interval:
        return text
    return f"{text} [{score.show(mean.low)}, {score.show(mean.high)}]"


def _scores(results: Results, names: tuple[str, ...]) -> Table:
    rows = tuple(
        (label, *(_shown(results.by(label).mean(name), name, False) for name in names))
        for label in results.ranked()
    )
    return Table(("method", *(SCORES[name].head for name in names)), rows)


def _main_score(results: Results) -> str:
    return "right" if results.judged else headline(results)[0]


def _per_cell(results: Results) -> Table:
    """The main score, broken down."""
    score = _main_score(results)
    rows = []
    for label in results.ranked():
        mine = results.by(label)
        means = [mine.of(cell).mean(score) for cell in results.cells]
        rows.append((label, *(_shown(mean, score, False) for mean in means)))
    return Table((f"{SCORES[score].head}", *results.cells), tuple(rows))


def _misses(results: Results) -> Table:
    """Share of the edits that missed each criterion."""
    rows = []
    for label in results.ranked():
        mine = results.by(label)
        scored = len(mine.rows) - mine.errors
        shares = [
            f"{100 * mine.misses[name] / scored:.0f} %" if scored else "–" for name in CRITERIA
        ]
        rows.append((label, *shares))
    return Table(("missed", *CRITERIA), tuple(rows))


def _methods(results: Results) -> list[str]:
    return [label for label in results.ranked() if not _baseline(results, label)]


def _baseline(results: Results, label: str) -> bool:
    return is_baseline(results.by(label).rows[0])


def _method(results: Results, label: str) -> str:
    return str(results.by(label).rows[0]["contender"]["method"])


def _where_lost(results: Results) -> Iterator[Block]:
    """Compare our method, in each of its settings, with the best of the others."""
    methods = _methods(results)
    rivals = [label for label in methods if _method(results, label) != OURS]
    for ours in (label for label in methods if _method(results, label) == OURS):
        for best in rivals[:1]:
            yield Heading(f"{ours} against {best}, the best of the others", 3)
            yield from _duel(results, ours, best)


def _duel(results: Results, ours: str, best: str) -> Iterator[Block]:
    """Compare two contenders on shared items, as a whole and kind by kind."""
    try:
        whole = results.compared(ours, best, "right")
    except ConfigError:  # a run that is not finished: they share no item yet
        yield Text("They have no item in common yet.")
        return
    verdict = "no clear difference"
    if whole.clear:
        verdict = "ahead" if whole.difference.value > 0 else "behind"
    gap = _shown(whole.difference, "right")
    yield Text(
        f"Over the same items, {ours} is right {gap} percentage points more often: {verdict} "
        f"({whole.wins} won, {whole.losses} lost, {whole.ties} alike)."
    )
    rows = tuple(_duel_row(results.of(cell), cell, ours, best) for cell in results.cells)
    yield Table(("kind", ours, best, "difference", f"what {ours} misses most"), rows)


def _duel_row(part: Results, cell: str, ours: str, best: str) -> tuple[str, ...]:
    if not {ours, best} <= set(part.labels):
        return (cell, "–", "–", "–", "–")
    paired = part.compared(ours, best, "right")
    missed = [f"{name} ({count})" for name, count in part.by(ours).misses.most_common(2)]
    shown = [SCORES["right"].show(value) for value in (paired.first, paired.second)]
    return (cell, *shown, _shown(paired.difference, "right"), ", ".join(missed) or "–")


def _plots(results: Results, track: str) -> Iterator[Block]:
    """Success against preservation, and against cost."""
    if results.judged:
        pairs = [("layout", "success"), ("background_psnr", "success")]
        pairs.append(("sample_forwards", "right"))
    else:
        keeps = next((n for n in ("psnr_area", "structure", "psnr") if n in results.scores), "")
        pairs = [(keeps, "clip"), ("sample_forwards", "clip")]
    for x, y in pairs:
        points = _points(results, x, y)
        if points:
            axes = [Axis(title=SCORES[n].head, higher=SCORES[n].higher) for n in (x, y)]
            caption = f"{SCORES[y].title} against {SCORES[x].title}; the line joins what no method "
            caption += f"beats on both ({TITLES[track].lower()})"
            yield Drawing(f"{track}-{y}-{x}", scatter(points, *axes), caption)


def _points(results: Results, x: str, y: str) -> list[Point]:
    """Means of every method, and of plain generation; the other baselines are the corners."""
    points = []
    for label in results.labels:
        mine = results.by(label)
        if mine.rows[0]["contender"]["method"] in ("copy", "ideal"):
            continue
        means = [(mine.mean(name), SCORES[name]) for name in (x, y) if name in results.scores]
        values = [mean.value * score.factor for mean, score in means if mean is not None]
        if len(values) == 2:
            points.append(
                Point(label=label, x=values[0], y=values[1], baseline=_baseline(results, label))
            )
    return points


def _examples(results: Results, track: str, pictures: Path) -> Iterator[Block]:
    if not pictures.is_dir():
        return
    yield Heading("Best and worst edits", 3)
    for number, label in enumerate(_methods(results)):
        for what, rows in zip(("best", "worst"), results.by(label).examples(EXAMPLES), strict=True):
            columns = [column for row in rows for column in _columns(row, pictures)]
            if columns:
                image = side_by_side(columns, height=96)
                image = image.quantize(192, dither=Image.Dither.NONE)  # a third of the bytes
                yield Photo(f"{track}-{number:02d}-{what}", image, f"{label}: {what}")


def _columns(row: dict[str, Any], pictures: Path) -> list[tuple[str, Image.Image]]:
    """The pictures of a row with what is said of them; none if one is missing or damaged."""
    files = {name: pictures / file for name, file in row["pictures"].items()}
    missed = f" (missed: {', '.join(row['failed'])})" if row["failed"] else ""
    words = {"source": row["source"] or "a real image", "edited": f"edit: {row['target']}{missed}"}
    try:
        return [(words[name], open_image(path).image) for name, path in files.items()]
    except ImageError:
        return []


def _settings(results: Results) -> Table:
    """What each contender was told beyond its defaults, track by track."""
    found: dict[tuple[str, str], str] = {}
    for row in results.rows:
        c = row["contender"]
        values = {**c.get("parameters", {}), **c.get("inversion_parameters", {})}
        text = ", ".join(f"{name} = {setting}" for name, setting in values.items())
        if text or c.get("tag"):
            found[row["label"], row["track"]] = text or "the defaults"
    rows = tuple((label, track, text) for (label, track), text in found.items())
    return Table(("method", "track", "settings"), rows)


def _ending(about: dict[str, Any], results: Results) -> Iterator[Block]:
    yield Heading("How this was made")
    yield Code("\n".join(about["commands"]))
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    facts = [
        f"Machine: {about['machine']}; {about['processes']} processes; {versions}.",
        *(f"Left out: {name}. {why}" for name, why in about["skipped"].items()),
        *about["notes"],
    ]
    yield Points(tuple(facts))
    settings = _settings(results)
    if settings.rows:
        yield Heading("Settings that are not defaults", 3)
        yield settings
    if results.errors:
        yield Text(f"{results.errors} edits ended in an error:")
        found = Counter(f"{r['label']}: {r['error']}" for r in results.rows if r["error"])
        yield Points(tuple(f"{count} × {what}" for what, count in found.most_common(20)))
    yield Heading("What the scores are", 3)
    shown = [SCORES[name] for name in results.scores]
    yield Points(tuple(f"{score.title}: {score.help}" for score in shown))
