"""What works with what, seen by trying: this test writes `docs/support.md`, and checks it.

`make support` writes the page (FREEPROMPT_WRITE_SUPPORT=1); otherwise it must say what is seen.
"""

import os
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from freeprompt.api import Editor
from freeprompt.errors import FreepromptError
from freeprompt.methods import METHODS, TwoBranch
from freeprompt.models import restored
from freeprompt.models.fingerprint import fingerprint
from freeprompt.models.tiny import tiny_sd, tiny_sdxl

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
FAMILIES = {
    "SD 1.x (noise prediction)": tiny_sd,
    "SD 2.x (v-prediction)": lambda: tiny_sd(prediction="v_prediction"),
    "SDXL": tiny_sdxl,
    "InstructPix2Pix of SD 1.x (8 input channels)": lambda: tiny_sd(in_channels=8),
}
COLUMNS = {  # name: (real image?, (width, height), source prompt?)
    "generated, square": (False, (64, 64), True),
    "generated, 2:1": (False, (128, 64), True),
    "real, square": (True, (64, 64), True),
    "real, 1:2": (True, (64, 128), True),
    "real, no source prompt": (True, (64, 64), False),
}
SOURCE, TARGET = "a red dog", "a blue cat"
STEPS = 4
FEW = {
    "masactrl": {"start": 1},  # so that its window begins within so few steps
    "imagic": {"embedding_steps": 2, "model_steps": 2},
}
BEFOREHAND = {"fpe-protect"}  # finds its mask on the finished source, which is drawn on its own
HEAD = f"""# What works with what

Written by `make support`, which tries every method on a small random model of each family; a test
checks that this page says what it sees. A cell means that the edit ran at {STEPS} steps, that the
same seed gave the same bytes, that the picture differs from its source, that the model was left
exactly as it was, and, for a generated source, that the source is the plain generation: to the byte
(**exact**) or to one level in 255 (**yes**), where the method computes it in a batch of another
size. For a real image **yes** means the first four. A number is a refusal, explained below.

Random weights draw noise: this says what runs and is exact, not what looks good. How well each
method edits is measured in the benchmark.
"""


@cache
def editor(family):
    return Editor(FAMILIES[family](), name=family)


@cache
def plain(family, size):
    """The source without any editing, as the loop draws it beside a target."""
    if editor(family).model.takes == "picture":
        return editor(family).edit(
            TARGET, source=SOURCE, method="instruct-pix2pix", steps=STEPS, width=size[0],
            height=size[1],
        )  # fmt: skip
    with pytest.warns(match="nothing was edited"):
        return editor(family).edit(
            TARGET, source=SOURCE, steps=STEPS, share=0, width=size[0], height=size[1]
        )


@cache
def photo(size):
    """A real image with something in it."""
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    picture.paste((200, 30, 60), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    return picture


@cache
def seen(family, name, column):
    """Try one edit twice; return the cell, or the error that refused it."""
    real, size, prompted = COLUMNS[column]
    model = editor(family)
    source = {"source": SOURCE} if prompted else {}
    where = {"image": photo(size)} if real else dict(zip(("width", "height"), size, strict=True))
    before = fingerprint(model.pipe)

    def once():
        return model.edit(
            TARGET, method=name, steps=STEPS, seed=0, **source, **where, **FEW.get(name, {})
        )

    try:
        first = once()
    except FreepromptError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        assert restored(model.pipe.unet) and fingerprint(model.pipe) == before
    assert first.images[0].tobytes() == once().images[0].tobytes()
    assert first.images[0].size == size
    if real:
        assert first.images[0].tobytes() != photo(size).tobytes()
        return "yes"
    assert first.images[0].tobytes() != first.source.tobytes()
    ours, theirs = first.source.tobytes(), plain(family, size).source.tobytes()
    if issubclass(METHODS[name], TwoBranch) and name not in BEFOREHAND:
        assert ours == theirs
        return "exact"
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1
    return "yes"


def page():
    """Return the whole document."""
    reasons, parts = [], [HEAD]
    for family in FAMILIES:
        parts.append(f"## {family}\n")
        parts.append(f"| method | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
        for name in METHODS:
            cells = [cell(seen(family, name, column), reasons) for column in COLUMNS]
            parts[-1] += f"\n| [{name}](methods/{name}.md) | {' | '.join(cells)} |"
        parts[-1] += "\n"
    notes = [f"{i}. {reason}" for i, reason in enumerate(reasons, start=1)]
    return "\n".join([*parts, "## Refusals\n", *(notes or ["None."]), ""])


def cell(result, reasons):
    """Return what stands in the table; refusals are numbered."""
    if result in ("yes", "exact"):
        return result
    if result not in reasons:
        reasons.append(result)
    return str(reasons.index(result) + 1)


def stands(family, name, column):
    """Return what the committed page says, with refusals in words."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text.partition(f"## {family}\n")[2].partition("\n## ")[0].splitlines()
    row = next((row for row in rows if row.startswith(f"| [{name}]")), None)
    assert row is not None, f"{name} is not in docs/support.md: run make support"
    said = [part.strip() for part in row.strip("|").split("|")][1 + list(COLUMNS).index(column)]
    if not said.isdigit():
        return said
    notes = text.partition("## Refusals\n")[2].splitlines()
    return next(line.partition(". ")[2] for line in notes if line.startswith(f"{said}. "))


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_part_of_the_page_is_so(family, name):
    """One column a family, each another; the slow test tries all of them."""
    column = list(COLUMNS)[1 + list(FAMILIES).index(family)]
    assert seen(family, name, column) == stands(family, name, column), "run make support"


@pytest.mark.slow
def test_the_whole_page_is_so():
    found = page()
    if os.environ.get("FREEPROMPT_WRITE_SUPPORT"):
        PAGE.write_text(found, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == found, "run make support"
