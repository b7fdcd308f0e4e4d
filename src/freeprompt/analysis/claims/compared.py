"""R9, R11 and the search: methods, maps against values, and other choices of layers."""

from freeprompt.analysis.claims.base import (
    Check,
    Checks,
    Claim,
    Context,
    Table,
    Tables,
    below,
    edits_table,
    recognised_table,
)
from freeprompt.analysis.claims.edits import picture, show
from freeprompt.analysis.interventions import PLAIN, Cell, intervene, using

METHODS_COMPARED: tuple[Cell, ...] = (
    PLAIN,
    using("fpe", "fpe"),
    using("fpe, share 0.4", "fpe", share=0.4),
    using("fpe, all layers", "fpe", sites="self:all"),
    using("p2p", "p2p"),
    using("p2p, share 0.8", "p2p", share=0.8),
    using("p2p, self only, share 0.8", "p2p", share=0.8, self_only=True),
    using("pnp", "pnp"),
    using("masactrl", "masactrl"),
    using("sdedit", "sdedit"),
    using("diffedit", "diffedit"),
)
PAPERS, OWN = "fpe", "fpe, all layers"  # the paper's layers, and those that emoji-sd's default has
_AGAINST = {PAPERS: "methods", OWN: f"methods against {OWN}"}
_RIVALS = ("p2p", "p2p, share 0.8", "pnp", "masactrl", "sdedit", "diffedit")


def measure_r9(context: Context) -> list[Table]:
    """Edit the same pairs by every method."""
    cells = list(METHODS_COMPARED)
    picture(context, "R9", cells[1:])
    by_label = {cell.label: cell for cell in cells}
    rivals = [by_label[rival] for rival in _RIVALS]
    return [
        *edits_table(context, _AGAINST[PAPERS], cells, baseline=by_label[PAPERS]),
        edits_table(context, _AGAINST[OWN], rivals, baseline=by_label[OWN])[0],
        recognised_table(context),
    ]


def rule_r9(tables: Tables) -> Checks:
    """No rival may be better in success and IoU at once."""
    return [
        _unbeaten(tables, ours, rival, title)
        for ours, title in _AGAINST.items()
        for rival in _RIVALS
    ]


def _unbeaten(tables: Tables, ours: str, rival: str, title: str) -> Check:
    success = tables.figure(title, rival, "Δ success")
    iou = tables.figure(title, rival, "Δ iou")
    beaten = success.value >= 0 and iou.value >= 0 and max(success.low, iou.low) > 0
    return Check(
        statement=f"{rival} is not better than {ours} in both (success {show(success)}, "
        f"IoU {show(iou)})",
        holds=not beaten,
    )


def measure_r11(context: Context) -> list[Table]:
    """Start the target from other noise, and take the source's maps or its keys and values."""
    cells = [
        intervene("neither", "none", other_noise=True),
        intervene("maps", "self:all", half="both", other_noise=True),
        intervene("keys and values", "self:all", take="values", half="both", other_noise=True),
    ]
    picture(context, "R11", cells)
    measures = ("success", "iou", "drift", "stays")
    tables = edits_table(
        context, "taken from the source", cells, baseline=cells[0], measures=measures
    )
    return [*tables, recognised_table(context)]


def rule_r11(tables: Tables) -> Checks:
    """Maps move shape, values move appearance, each more than the other."""
    title = "taken from the source, colour"
    shape = {x: tables.figure(title, x, "Δ iou") for x in ("maps", "keys and values")}
    color = {x: tables.figure(title, x, "Δ drift") for x in ("maps", "keys and values")}
    return [
        Check(
            statement=f"the source's maps move shape: IoU rises ({show(shape['maps'])})",
            holds=shape["maps"].low > 0,
        ),
        Check(
            statement="its keys and values move appearance: the colour comes nearer to the "
            f"source's (ΔE {show(color['keys and values'])})",
            holds=color["keys and values"].high < 0,
        ),
        Check(
            statement="maps move shape more than keys and values do, and colour less, by more "
            f"than the intervals (IoU {show(shape['keys and values'])}, ΔE {show(color['maps'])})",
            holds=below(shape["keys and values"], shape["maps"])
            and below(color["keys and values"], color["maps"]),
        ),
    ]


def measure_search(context: Context) -> list[Table]:
    """Search sites x share for the Pareto front."""
    from freeprompt.analysis.search import candidates, draw, search

    shares = (0.4, 0.8) if context.budget.quick else (0.2, 0.4, 0.6, 0.8, 1.0)
    cells = candidates(context.model.sites, shares)
    lab = context.laboratory(context.budget.searched)
    found = search(
        lab,
        cells=cells[:14] if context.budget.quick else cells,
        first=1 if context.budget.quick else 2,
        callback=context.tell("search"),
    )
    draw(found, lab.scorer, context.images / "search.png")
    rows = {
        f.cell.label: {
            "success": f.success,
            "iou": f.preservation,
            "pairs": float(f.pairs),
            "on the front": float(f.on_front),
        }
        for f in found.found
        if f.on_front or f is found.paper
    }
    surely = [d for d in found.dominators if d["surely"]]
    counts = {
        "paper's choice on the front": float(found.paper.on_front),
        "candidates surely better in both": float(len(surely)),
        "edits scored": float(found.evaluations),
        "edits of an exhaustive search": float(found.exhaustive),
    }
    return [
        Table(title="front", rows=rows),
        Table(title="search", rows={k: {"value": v} for k, v in counts.items()}),
    ]


def rule_search(tables: Tables) -> Checks:
    """The paper's choice must be on the front, or at least not be surely beaten."""
    on_front = tables.figure("search", "paper's choice on the front", "value").value
    better = tables.figure("search", "candidates surely better in both", "value").value
    return [
        Check(
            statement="self:below-top at share 0.8 is on the front by the figures themselves",
            holds=on_front == 1,
        ),
        Check(
            statement="no candidate is better in both with intervals clear of 0 "
            f"({better:.0f} are)",
            holds=better == 0,
        ),
    ]


COMPARED = (
    Claim(
        name="R9",
        title="Against other methods",
        counterpart="quantitative comparison",
        says="FPE consistently outperforms other methods (by CLIP score and directional "
        "similarity).",
        method="The same pairs edited by every method, each with its defaults, from the same "
        "generated sources. The judge's probability of the wanted attribute stands for the CLIP "
        "score, which does not know emoji. P2P at share 0.8 tells whether FPE's gain is the share "
        "alone; P2P without its cross-attention part is FPE. Rivals are held against FPE with the "
        "paper's layers and with all layers, emoji-sd's default in the catalogue.",
        measure=measure_r9,
        rule=rule_r9,
    ),
    Claim(
        name="R11",
        title="A map moves shape, values move appearance",
        says="What follows from the thesis: copying the self map carries layout, copying keys and "
        "values carries looks.",
        method="The target starts from other noise than the source, so that it owes it nothing; "
        "then all its self-attention takes the source's maps, or its keys and values. `drift` is "
        "how far the subject's mean colour is from the source's, as CIE 1976 ΔE.",
        measure=measure_r11,
        rule=rule_r11,
    ),
    Claim(
        name="search",
        title="Is the paper's choice of layers and share a good one here?",
        says="Layers below the finest grid, share 0.8; no reason beyond examples is given.",
        method="Successive halving over sets of self-attention layers and shares, on success and "
        "IoU; the paper's choice is compared with every finalist pair by pair.",
        measure=measure_search,
        rule=rule_search,
    ),
)
