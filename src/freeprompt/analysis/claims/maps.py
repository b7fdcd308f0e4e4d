"""R1 to R3: what probes read from attention maps, and what explains it away."""

from dataclasses import replace

from freeprompt.analysis.claims.base import (
    Check,
    Checks,
    Claim,
    Context,
    Figure,
    Table,
    Tables,
    below,
)
from freeprompt.analysis.collect import Collection, Recipe, collect, evenly
from freeprompt.analysis.probing import (
    VARIANTS,
    Reading,
    Variant,
    average,
    chance,
    heat_map,
    probing,
    recognised,
)
from freeprompt.judge import Judge

HIGH = 0.8  # what counts as reading a class from maps
CLASSES = 10
OTHER_TOKENS = ("a", "car", "end", "padding")
_FEW: tuple[Variant, ...] = ("raw", "normalised", "shuffled")


def _collection(context: Context, task: str) -> Collection:
    budget = context.budget
    recipe = Recipe(
        task=task,
        maps=("cross", "self"),
        tokens=("class", *OTHER_TOKENS) if task == "colour" else ("class",),
        seeds=budget.seeds,
        steps=budget.steps,
        at=evenly(budget.steps, budget.probed),
    )
    folder = context.folder / f"maps-{task}-{budget.probed}"
    return collect(context.model, recipe, folder, context.tell(f"maps, {task}"))


def _readings(
    context: Context, task: str, kind: str, tokens: tuple[str, ...], variants: tuple[Variant, ...]
) -> list[Reading]:
    collection = _collection(context, task)
    part = replace(collection.recipe, maps=(kind,), tokens=tokens)
    return probing(
        Collection(collection.folder, part, collection.sites),
        layers=context.budget.layers,
        variants=variants,
        folds=context.budget.folds,
        probe_settings={"updates": context.budget.updates},
        callback=context.tell(f"probes, {task}, {kind}"),
    )


def _averages(
    readings: list[Reading], kind: str, token: str, variants: tuple[Variant, ...]
) -> dict[str, dict[str, Figure]]:
    return {
        variant: {
            "first step": average(readings, kind, token, variant, "first"),
            "later steps": average(readings, kind, token, variant, "later"),
            "chance": chance(CLASSES, variant),
        }
        for variant in variants
    }


def _layers_table(readings: list[Reading], title: str) -> Table:
    """Raw accuracy by layer at the last kept step: what the paper's tables show."""
    last = max(r.step for r in readings)
    rows: dict[str, dict[str, Figure]] = {}
    for r in readings:
        if r.step == last:
            row = rows.setdefault(f"{r.layer} ({r.site})", {"cells": float(r.features)})
            row[r.variant if r.token in ("class", "map") else f"{r.token}, {r.variant}"] = (
                r.accuracy
            )
    return Table(title=title, rows=rows)


def _shown(context: Context, task: str) -> Table:
    judge = Judge.load(device=context.model.device)
    shown = recognised(_collection(context, task), context.model, judge)
    return Table(
        title=f"pictures that show their class, {task}",
        rows={"as the judge reads them": {"rate": shown}},
    )


def measure_r1(context: Context) -> list[Table]:
    """Probe the class token's cross maps in both tasks."""
    tables, drawn = [], []
    variants = tuple(VARIANTS)
    for task in ("colour", "animal"):
        readings = _readings(context, task, "cross", ("class",), variants)
        rows = _averages(readings, "cross", "class", variants)
        tables += [
            Table(title=f"mean over layers, {task}", rows=rows),
            _layers_table(readings, f"last kept step, {task}"),
            _shown(context, task),
        ]
        drawn += [replace(r, token=task) for r in readings]
    heat_map(drawn, CLASSES, context.images / "R1.png")
    return tables


def rule_r1(tables: Tables) -> Checks:
    """The figure must be high, its controls at chance, and it must come from the picture."""
    checks = []
    for task in ("colour", "animal"):
        title = f"mean over layers, {task}"
        raw = tables.figure(title, "raw", "later steps")
        shuffled = tables.figure(title, "shuffled", "later steps")
        first = tables.figure(title, "raw", "first step")
        image = tables.figure(title, "forced image", "later steps")
        guess = chance(CLASSES, "forced image")
        checks += [
            Check(
                statement=f"{task}: raw accuracy is at least {HIGH:.0%} ({_show(raw)}), and with "
                f"shuffled labels near chance ({_show(shuffled)})",
                holds=raw.value >= HIGH and abs(shuffled.value - 1 / CLASSES) < 0.05,
            ),
            Check(
                statement=f"{task}: it is the picture that is read: before there is one (first "
                f"step) accuracy is at least 20 points lower ({_show(first)})",
                holds=first.value <= raw.value - 0.2,
            ),
            Check(
                statement=f"{task}: where prompt and picture disagree, the picture's class can be "
                f"read, above {guess:.0%} ({_show(image)})",
                holds=image.low > guess,
            ),
        ]
    return checks


def measure_r2(context: Context) -> list[Table]:
    """Probe self maps in both tasks, beside the cross maps of R1."""
    variants: tuple[Variant, ...] = ("raw", "linear", "shuffled", "forced prompt", "forced image")
    tables, drawn = [], []
    for task in ("colour", "animal"):
        readings = _readings(context, task, "self", (), variants)
        cross = _readings(context, task, "cross", ("class",), ("raw",))
        rows = _averages(readings, "self", "map", variants)
        rows["cross maps, raw"] = _averages(cross, "cross", "class", ("raw",))["raw"]
        tables += [
            Table(title=f"mean over layers, {task}", rows=rows),
            _layers_table(readings, f"last kept step, {task}"),
        ]
        drawn += [replace(r, token=task) for r in readings]
    heat_map(drawn, CLASSES, context.images / "R2.png")
    return tables


def rule_r2(tables: Tables) -> Checks:
    """Colour near chance, animals above it and below the cross maps."""
    color = tables.figure("mean over layers, colour", "raw", "later steps")
    animal = tables.figure("mean over layers, animal", "raw", "later steps")
    cross = tables.figure("mean over layers, animal", "cross maps, raw", "later steps")
    return [
        Check(
            statement=f"colour is hard to read: below 30 % ({_show(color)})",
            holds=color.value < 0.3,
        ),
        Check(
            statement=f"animals are read better than colours ({_show(animal)}), by more than the "
            "intervals, and above chance",
            holds=below(color, animal) and animal.low > 1 / CLASSES,
        ),
        Check(
            statement=f"animals are read worse than from cross maps ({_show(cross)}), by more "
            "than the intervals",
            holds=below(animal, cross),
        ),
    ]


def measure_r3(context: Context) -> list[Table]:
    """Probe the cross maps of the article, the noun, the end token and the padding."""
    readings = _readings(context, "colour", "cross", OTHER_TOKENS, _FEW)
    rows: dict[str, dict[str, Figure]] = {}
    for token in OTHER_TOKENS:
        found = _averages(readings, "cross", token, _FEW)
        rows |= {f"{token}, {variant}": figures for variant, figures in found.items()}
    heat_map(readings, CLASSES, context.images / "R3.png")
    return [
        Table(title="mean over layers", rows=rows),
        _layers_table(readings, "last kept step"),
    ]


def rule_r3(tables: Tables) -> Checks:
    """The article says nothing of the colour, the noun does."""
    article = tables.figure("mean over layers", "a, raw", "later steps")
    noun = tables.figure("mean over layers", "car, raw", "later steps")
    return [
        Check(
            statement=f"'a' tells no colour: at most twice chance ({_show(article)})",
            holds=article.value <= 2 / CLASSES,
        ),
        Check(
            statement=f"'car' tells the colour: above chance ({_show(noun)}), and above 'a' by "
            "more than the intervals",
            holds=noun.low > 1 / CLASSES and below(article, noun),
        ),
    ]


def _show(e: object) -> str:
    from freeprompt.analysis.statistics import Estimate

    assert isinstance(e, Estimate)
    return f"{e.value:.0%} [{e.low:.0%}, {e.high:.0%}]"


_SPLIT = (
    "Each seed gives one sample a class, all from one noise; seeds are split into folds and each "
    "is tested once, by probes that never saw it. Maps are averaged over heads and kept at their "
    "own grid. The first step is told apart: there is no image in it yet."
)

MAPS = (
    Claim(
        name="R1",
        title="Cross maps of a word tell its class",
        counterpart="Table 1",
        says="A two-layer classifier reads colours and animals from the word's cross-attention "
        "map with high accuracy (orange 93 %, sheep 98 %): the map carries semantics.",
        method=f"{_SPLIT} A cross map contains the token's own key, so a probe may read the word "
        "and not the picture; hence the variants: maps divided by their sum, first-step maps, and "
        "maps of one network call on a noised rendering of another class ('forced'), probed for "
        "the prompt's class and for the rendering's.",
        measure=measure_r1,
        rule=rule_r1,
    ),
    Claim(
        name="R2",
        title="Self maps tell the kind of thing, not its colour",
        counterpart="Table 2",
        says="From self-attention maps colours can hardly be classified; animals better, though "
        "not as well as from cross maps.",
        method=f"{_SPLIT} Self maps are averaged to at most 4x4 cells over queries and over keys, "
        "so that they have as many features as a cross map of the finest grid. Their rows sum to 1 "
        "as they are.",
        measure=measure_r2,
        rule=rule_r2,
    ),
    Claim(
        name="R3",
        title="Other words: the article knows nothing, the noun knows the colour",
        counterpart="Table 3",
        says='In "a <color> car", the map of "a" carries no colour, that of "car" does.',
        method=f'{_SPLIT} The article is "a" in every prompt. The end token and the padding are '
        "probed too: later work finds that they gather the prompt's attributes.",
        measure=measure_r3,
        rule=rule_r3,
    ),
)
