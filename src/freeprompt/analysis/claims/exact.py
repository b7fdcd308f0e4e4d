"""R0, R8 and R10: what must hold exactly, real images, and cost."""

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from freeprompt.analysis.claims.base import (
    Check,
    Checks,
    Claim,
    Context,
    Figure,
    Table,
    Tables,
)
from freeprompt.analysis.collect import start_noise
from freeprompt.analysis.figures import picture_grid
from freeprompt.analysis.statistics import mean
from freeprompt.analysis.tasks import Case
from freeprompt.core import PAIR, Control, Share, Sites, Trajectory, Window, step_count
from freeprompt.core.attention import Call
from freeprompt.core.rows import Rows
from freeprompt.images import psnr, to_images, to_tensor
from freeprompt.inversion import INVERSIONS, reconstruct
from freeprompt.methods import FPE, METHODS, Task
from freeprompt.methods.base import generated_source
from freeprompt.world import parse_scene

EXACT = 1e-3  # of latents of about unit variance: float32 rounding over all steps
PAPER = 0.8
GUIDANCES = (1.0, 3.0, 7.5)


def _task(context: Context, case: Case, **changes: object) -> Task:
    given = {
        "targets": case.targets,
        "source": case.source,
        "start": start_noise(context.model, case.seed),
        "steps": context.budget.steps,
        "guidance": 7.5,
    }
    return Task(**{**given, **changes})  # type: ignore[arg-type]


def _largest(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


class Explicit(Control):
    """Shares the source's maps the slow way: computed, then overwritten, as in the literature."""

    needs_probs = True
    edits_probs = True

    def __init__(self, sites: Sites, window: Window):
        self.sites, self.window = sites, window

    def rewrites(self, rows: Rows) -> tuple[int, ...]:
        return rows.targets("cond")

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        new = list(probs)
        for i in call.rows.targets("cond"):
            new[i] = probs[call.rows.source_of(i)]
        return torch.stack(new)


class ExplicitFPE(FPE):
    """FPE with maps that are really materialised."""

    def controls(self, model: object, task: Task) -> list[Control]:
        return [Explicit(self.sites, Window.until(self.share, task.steps))]


@torch.no_grad()
def measure_r0(context: Context) -> list[Table]:
    """Compare edits that must be equal, in latents."""
    model, steps = context.model, context.budget.steps
    cases = context.cases[: 1 if context.budget.quick else 10]
    worst: dict[str, float] = {}

    def note(what: str, difference: float) -> None:
        worst[what] = max(worst.get(what, 0.0), difference)

    for done, case in enumerate(cases):
        one = replace(case, targets=case.targets[:1], wanted=case.wanted[:1])
        task = _task(context, one)
        plain = generated_source(model, replace(task, source=one.targets[0])).clean
        source = generated_source(model, task).clean
        edit = FPE(share=PAPER)(model, task)
        assert edit.source is not None
        note(
            "share 0 against plain generation", _largest(FPE(share=0.0)(model, task).targets, plain)
        )
        none = FPE(sites=Sites("none"))(model, task)
        note("no sites against plain generation", _largest(none.targets, plain))
        note("source beside an edit against source alone", _largest(edit.source, source))
        same = FPE(share=PAPER)(model, replace(task, targets=(one.source,)))
        assert same.source is not None
        note("target with the source's prompt against source", _largest(same.targets, same.source))
        slow = ExplicitFPE(share=PAPER)(model, task)
        note("fused against materialised maps", _largest(edit.targets, slow.targets))
        note("unconditional rows with sharing against without", _uncond_change(context, task))
        sites = len(Sites("self:below-top").select(model.sites))
        note(
            "shared maps too many or too few",
            abs(len(edit.edited) - step_count(steps, PAPER) * sites),
        )
        note("the edit against the plain target (must differ)", _largest(edit.targets, plain))
        context.progress("exact equalities", done + 1, len(cases))
    rows: dict[str, dict[str, Figure]] = {k: {"largest difference": v} for k, v in worst.items()}
    return [Table(title="equalities", rows=rows)]


def _uncond_change(context: Context, task: Task) -> float:
    """Return how much sharing changes the unconditional rows of one network call."""
    model, schedule = context.model, context.model.schedule(task.steps)
    rows = PAIR
    batch = rows.spread({"source": task.start, "target": task.start})
    text = {
        "source": model.encode_text([task.source]),
        "target": model.encode_text(task.targets),
    }
    embeddings = rows.embeddings(text, model.encode_text([""]))  # type: ignore[arg-type]
    found = []
    for controls in ([], [Share(sites=Sites("self:below-top"), window=Window(0, 1))]):
        with model.attach(controls, rows) as run, run.at(0, (batch.shape[-2], batch.shape[-1])):
            found.append(model.predict(batch, schedule.timesteps[0], embeddings))
    uncond = [i for i, row in enumerate(rows) if not row.conditional]
    return _largest(found[0][uncond], found[1][uncond])


def rule_r0(tables: Tables) -> Checks:
    """Every equality to rounding; and the edit must be one."""
    checks = []
    for label in tables.labels("equalities"):
        value = tables.figure("equalities", label, "largest difference").value
        differs = label.endswith("(must differ)")
        checks.append(
            Check(
                statement=f"{label}: {value:.2g}" + ("" if differs else f", at most {EXACT:g}"),
                holds=value > EXACT if differs else value <= EXACT,
            )
        )
    return checks


def _image(context: Context, number: int) -> tuple[Image.Image, str]:
    prompts = ("a red car on the street", "a dog standing in the park")
    prompt = prompts[number % 2]
    picture = parse_scene(prompt, number).render(context.model.native_size).image
    return Image.fromarray(picture), prompt


@torch.no_grad()
def measure_r8(context: Context) -> list[Table]:
    """Invert rendered pictures and denoise them again: stored, blind, guided, null-text."""
    model, count = context.model, context.budget.images
    found: dict[str, list[float]] = {}
    exact = 0.0
    pictures: list[tuple[str, list[Image.Image | None]]] = []
    for number in range(count):
        picture, prompt = _image(context, number)
        clean = model.encode_image(to_tensor(picture))
        round_trip = to_images(model.decode(clean))[0]
        empty, named = (_invert(context, "ddim", clean, text) for text in ("", prompt))
        exact = max(exact, _largest(_replayed(context, empty, prompt), clean))
        ends = {"blind, empty prompt, guidance 1": _blind(context, empty, "", 1.0)}
        for guidance in GUIDANCES:
            name = f"blind, prompt, guidance {guidance:g}"
            ends[name] = _blind(context, named, prompt, guidance)
        null = _invert(context, "null-text", clean, prompt, guidance=7.5)
        ends["null-text, prompt, guidance 7.5"] = reconstruct(model, null)
        shown = [to_images(model.decode(end))[0] for end in ends.values()]
        for name, image in zip(ends, shown, strict=True):
            found.setdefault(name, []).append(psnr(image, round_trip))
        pictures.append(
            (prompt.split()[2 if "car" in prompt else 1], [picture, round_trip, *shown])
        )
        context.progress("real images", number + 1, count)
    heads = ["image", "autoencoder", *found]
    context.keep(picture_grid(heads, pictures[:4], side=96), "R8")
    seeds = list(range(count))
    rows: dict[str, dict[str, Figure]] = {
        name: {"PSNR in dB": mean(values, seeds)} for name, values in found.items()
    }
    stored = {"source branch against the image's latent": {"largest difference": exact}}
    return [Table(title="denoised again", rows=rows), Table(title="stored latents", rows=stored)]


def _invert(
    context: Context, name: str, clean: Tensor, prompt: str, **settings: object
) -> Trajectory:
    inversion = INVERSIONS[name]()
    return inversion(
        context.model,
        clean,
        steps=context.budget.steps,
        prompt=prompt,
        **settings,  # type: ignore[arg-type]
    )


def _replayed(context: Context, trajectory: Trajectory, prompt: str) -> Tensor:
    """Return where the pinned source ends, edited beside a target in every step."""
    from freeprompt.core import TRIPLE, denoise

    model = context.model
    target = model.encode_text([prompt])
    done = denoise(
        model,
        model.schedule(context.budget.steps),
        {"source": trajectory.start, "target": trajectory.start},
        text={"source": model.encode_text([""]), "target": target},
        null=model.encode_text([""]),
        rows=TRIPLE,
        controls=[Share(sites=Sites("self:below-top"), window=Window(0, context.budget.steps))],
        replay=trajectory,
    )
    return done.state["source"]


def _blind(context: Context, trajectory: Trajectory, prompt: str, guidance: float) -> Tensor:
    return reconstruct(context.model, replace(trajectory, prompt=prompt, guidance=guidance))


def rule_r8(tables: Tables) -> Checks:
    """Stored latents are exact; without them guidance hurts; null-text is not worse."""
    title, name = "denoised again", "PSNR in dB"
    exact = tables.figure(
        "stored latents", "source branch against the image's latent", "largest difference"
    ).value
    levels = [tables.figure(title, f"blind, prompt, guidance {g:g}", name).value for g in GUIDANCES]
    null = tables.figure(title, "null-text, prompt, guidance 7.5", name).value
    return [
        Check(
            statement=f"with stored latents the source branch ends at the image ({exact:.2g})",
            holds=exact <= EXACT,
        ),
        Check(
            statement="without them the error grows with guidance: "
            + ", ".join(f"{v:.1f} dB" for v in levels),
            holds=all(b < a for a, b in pairwise(levels)),
        ),
        Check(
            statement=f"null-text inversion is not worse at guidance 7.5 ({null:.1f} dB against "
            f"{levels[-1]:.1f} dB)",
            holds=null >= levels[-1],
        ),
    ]


_COSTED: dict[str, tuple[str, dict[str, Any]]] = {
    "two plain generations": ("fpe", {"sites": "none"}),
    "fpe": ("fpe", {"share": PAPER}),
    "p2p": ("p2p", {}),
    "pnp": ("pnp", {}),
    "masactrl": ("masactrl", {}),
}


@torch.no_grad()
def measure_r10(context: Context) -> list[Table]:
    """Count sample-forwards and processor seconds of one generated edit by several methods."""
    model, case = context.model, context.cases[0]
    task = _task(context, replace(case, targets=case.targets[:1], wanted=case.wanted[:1]))
    seconds: dict[str, list[float]] = {name: [] for name in _COSTED}
    forwards: dict[str, float] = {}
    repeats = 1 if context.budget.quick else 5
    for repeat in range(repeats):
        for name, (method, settings) in _COSTED.items():
            before, began = model.sample_forwards, _clock(context)
            METHODS[method].build(settings)(model, task)
            seconds[name].append(_clock(context) - began)
            forwards[name] = float(model.sample_forwards - before) / task.steps
        context.progress("cost", repeat + 1, repeats)
    base = min(seconds["two plain generations"])
    rows: dict[str, dict[str, Figure]] = {
        name: {
            "sample-forwards a step": forwards[name],
            "time, two plain generations being 1": min(spent) / base,
        }
        for name, spent in seconds.items()
    }
    return [Table(title="cost of one generated edit", rows=rows)]


def _clock(context: Context) -> float:
    """Return processor seconds, which a busy neighbour does not change, or real ones on a GPU."""
    if context.model.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(context.model.device)
    return time.perf_counter()


def rule_r10(tables: Tables) -> Checks:
    """Four rows a step, next to nothing on top, and no more than Prompt-to-Prompt."""
    title, clock = "cost of one generated edit", "time, two plain generations being 1"
    rows = tables.figure(title, "fpe", "sample-forwards a step").value
    fpe, p2p = (tables.figure(title, name, clock).value for name in ("fpe", "p2p"))
    return [
        Check(statement=f"FPE takes four sample-forwards a step ({rows:g})", holds=rows == 4),
        Check(
            statement=f"FPE takes at most a tenth longer than two plain generations ({fpe:.2f})",
            holds=fpe <= 1.1,
        ),
        Check(
            statement=f"FPE takes no longer than Prompt-to-Prompt ({p2p:.2f}), within 5 %",
            holds=fpe <= 1.05 * p2p,
        ),
    ]


INVARIANTS = Claim(
    name="R0",
    title="What must hold exactly",
    says="With no steps or no layers the edit is the plain generation of the target; the source "
    "is not touched; equal prompts give equal pictures; only the conditional half is edited.",
    method="Largest absolute difference of final latents over several pairs, on the real weights. "
    "Fused sharing of queries and keys is also compared with overwriting materialised maps.",
    measure=measure_r0,
    rule=rule_r0,
    exact=True,
)
REAL = Claim(
    name="R8",
    title="Real images",
    says="An image is inverted with an empty prompt and its latents are stored; the source branch "
    "follows them, so that maps come from the image itself. Null-text inversion can be combined.",
    method="Rendered pictures, unknown to the model, are inverted; PSNR of what comes back "
    "against the autoencoder's round trip. 'Blind' denoises the noise without the stored latents.",
    measure=measure_r8,
    rule=rule_r8,
)
COST = Claim(
    name="R10",
    title="Cost",
    says="FPE needs four network rows a step (two prompts, two halves) and adds next to nothing.",
    method="Sample-forwards are counted; time is the least of several runs, in processor seconds "
    "on a CPU, as a ratio within one run.",
    measure=measure_r10,
    rule=rule_r10,
    exact=True,
)
