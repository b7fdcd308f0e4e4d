"""Every claim measured end to end on a random model: the figures mean nothing, the paths do."""

from dataclasses import replace

import pytest

from freeprompt.analysis.claims import run
from freeprompt.analysis.claims.base import QUICK
from freeprompt.models import adapt
from freeprompt.models.tiny import tiny_sd

pytestmark = pytest.mark.slow

LEAST = replace(
    QUICK,
    pairs=4,
    per_source=1,
    steps=2,
    seeds=2,
    probed=2,
    layers=(1,),
    folds=2,
    updates=2,
    images=1,
    searched=4,
)


@pytest.fixture(scope="module")
def model():
    return adapt(tiny_sd(sample_size=8, vae_channels=(8, 8, 8)), "tiny")


@pytest.mark.parametrize("claim", run.CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_is_measured_and_written(model, tmp_path, claim):
    pytest.importorskip("matplotlib")
    told = []
    images = tmp_path / "images"
    run.measure(
        model,
        [claim],
        LEAST,
        results=tmp_path / "results",
        images=images,
        work=tmp_path / "work",
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert told
    assert told[-1][1] == told[-1][2]
    run.write(tmp_path / "results", images, tmp_path / "claims.md")
    text = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert text.count("Not measured yet.") == len(run.CLAIMS) - 1
    drawn = images / f"{claim.name}.png"
    assert drawn.exists() == (claim.name not in ("R0", "R10"))
