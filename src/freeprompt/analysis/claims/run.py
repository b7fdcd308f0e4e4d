"""Measuring claims, and writing the document."""

import os
from collections.abc import Sequence
from pathlib import Path

from freeprompt.analysis.claims import report
from freeprompt.analysis.claims.base import Budget, Claim, Context, Progress
from freeprompt.analysis.claims.compared import COMPARED
from freeprompt.analysis.claims.edits import EDITS
from freeprompt.analysis.claims.exact import COST, INVARIANTS, REAL
from freeprompt.analysis.claims.maps import MAPS
from freeprompt.analysis.scoring import JudgeScorer
from freeprompt.errors import ConfigError, SaveError, unknown
from freeprompt.models import UNetModel
from freeprompt.models.fingerprint import fingerprint

_BY_NAME = {claim.name: claim for claim in (INVARIANTS, *MAPS, *EDITS, *COMPARED, REAL, COST)}
CLAIMS: tuple[Claim, ...] = tuple(
    _BY_NAME[name] for name in (*(f"R{i}" for i in range(12)), "search")
)
"""All claims, in the order of the document."""


def chosen(names: Sequence[str]) -> list[Claim]:
    """Return claims by name; all of them if none is named.

    Raises:
        ConfigError: for an unknown name.
    """
    for name in names:
        if name not in _BY_NAME:
            raise unknown(ConfigError, "claim", name, _BY_NAME)
    return [claim for claim in CLAIMS if not names or claim.name in names]


def measure(
    model: UNetModel,
    claims: Sequence[Claim],
    budget: Budget,
    *,
    results: Path,
    images: Path,
    work: Path,
    progress: Progress,
) -> None:
    """Measure claims one after the other; each writes its results file when it is done.

    What can be resumed (edits, maps) is kept in `work`, so a run that was stopped goes on.

    Args:
        model: A model of Emoji World: the judge scores its pictures.
        claims: Which.
        budget: How much.
        results: Folder of the results files.
        images: Folder of the pictures.
        work: Folder for what is only kept to go on.
        progress: Told (what, done, all).
    """
    context = Context(
        model=model,
        scorer=JudgeScorer(),
        budget=budget,
        work=work,
        images=images,
        progress=progress,
    )
    for claim in claims:
        tables = claim.measure(context)
        picture = f"{claim.name}.png"
        settings = {
            "model": model.name,
            "fingerprint": fingerprint(model.pipe),
            "picture": picture if (images / picture).exists() else None,
        }
        report.save(claim, tables, budget, settings, results)


def write(results: Path, images: Path, document: Path) -> None:
    """Write the document from the results files.

    Raises:
        SaveError: if it cannot be written.
    """
    seen = Path(os.path.relpath(images, document.parent)).as_posix()
    drawn = all((images / f"maps-{what}.png").exists() for what in ("words", "components"))
    text = report.document(CLAIMS, results, seen, maps=drawn)
    try:
        document.parent.mkdir(parents=True, exist_ok=True)
        document.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{str(document)!r} could not be written: {error.strerror}.") from error
