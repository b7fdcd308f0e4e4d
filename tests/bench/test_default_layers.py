"""A contender that leaves its layers open gets those of the model, and its row says so."""

from dataclasses import replace

import pytest

from freeprompt.bench import Contender, Data
from freeprompt.bench.plan import Plan
from freeprompt.bench.runner import jobs
from freeprompt.bench.worker import Setup, Worker
from freeprompt.models import CATALOG

OPEN = Contender(method="fpe", steps=2)
SAID = Contender(method="fpe", steps=2, parameters={"sites": "self:below-top"})


def keys(*contenders):
    data = Data(tracks=("generated",), cells=("color",), limit=1)
    plan = Plan(model="tiny-sd", data=data, contenders=contenders)
    return {job.contender.label: job.key for job in jobs(plan, data.load())}


@pytest.fixture
def with_layers(monkeypatch):
    monkeypatch.setitem(CATALOG, "tiny-sd", replace(CATALOG["tiny-sd"], sites="self:all"))


def test_the_row_has_another_name_where_the_model_s_layers_count(monkeypatch) -> None:
    before = keys(OPEN, SAID)
    monkeypatch.setitem(CATALOG, "tiny-sd", replace(CATALOG["tiny-sd"], sites="self:all"))
    after = keys(OPEN, SAID)
    assert {label for label in before if before[label] != after[label]} == {OPEN.label}


def test_the_edit_is_made_with_them(with_layers) -> None:
    worker = Worker(Setup(model="tiny-sd", device="cpu", metrics={"lpips": ""}))
    (item,) = Data(tracks=("generated",), cells=("color",), limit=1).load().items
    sites = [
        worker.row(item, contender, "key")["provenance"]["parameters"]["sites"]
        for contender in (OPEN, SAID)
    ]
    assert sites == ["self:all", "self:below-top"]
