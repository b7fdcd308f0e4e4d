"""Measure a saved emoji-sd with the judge, for its model card."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline

from freeprompt.errors import ConfigError
from freeprompt.judge import Judge, Reading, delta_e
from freeprompt.train.anatomy import load_pipeline
from freeprompt.train.data import Seeds, portions, render, scene_at, to_bytes, to_signed
from freeprompt.train.judge import judge_scores, labelled, reading_scores
from freeprompt.train.model import draw_prompts
from freeprompt.train.sheet import write_sheet
from freeprompt.train.vae import encode, psnr
from freeprompt.world import COLORS, OBJECTS, PLACES, SUBJECTS, Scene, is_held_out

MARKS = ("<!-- measured -->", "<!-- /measured -->")

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How much to measure.

    Attributes:
        prompts: Images to generate; a quarter of the prompts are combinations never trained on.
        guidance: Guidance scale.
        steps: Denoising steps.
        scenes: Rendered scenes for the measurements of autoencoder, judge and neighbours.
    """

    prompts: int = 192
    guidance: float = 5.0
    steps: int = 50
    scenes: int = 512


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured; shares are in 0..1, `None` where nothing could be counted.

    Attributes:
        seen, held_out: Share of images that show what the prompt says, by attribute, for
            combinations that training saw and that it did not.
        vae_psnr: Mean PSNR in dB of the autoencoder on held-out scenes.
        judge_rendered, judge_round_trip: The judge's scores on rendered held-out scenes and on
            what the autoencoder makes of them.
        neighbour: Mean root-mean-square distance in 0..255 from a generated image to the nearest
            of the training scenes; `neighbour_fresh`: the same for fresh rendered scenes.
        spread: Standard deviation of the subject's horizontal position as a fraction of the frame
            in generated images; `spread_true`: in rendered scenes.
    """

    prompts: int
    guidance: float
    steps: int
    resolution: int
    seen: dict[str, float | None]
    held_out: dict[str, float | None]
    color_delta_e: float | None
    vae_psnr: float
    judge_rendered: dict[str, float]
    judge_round_trip: dict[str, float]
    neighbour: float
    neighbour_fresh: float
    spread: float
    spread_true: float
    seconds_per_image: float


def balanced_scenes(count: int) -> list[Scene]:
    """Choose scenes whose subjects are equally frequent, every fourth one held out if possible."""
    return [_one_scene(_subject(i), i % 4 == 3, i) for i in range(count)]


def _subject(index: int) -> str:
    """Name the subject at a place of a list in which every round has all subjects, shuffled."""
    turn, place = divmod(index, len(SUBJECTS))
    order = np.random.default_rng([Seeds.PROMPTS, turn, 0]).permutation(len(SUBJECTS))
    return SUBJECTS[int(order[place])]


def _one_scene(subject: str, held_out: bool, index: int) -> Scene:
    """Draw colour and place for a subject; some subjects have no held-out combination."""
    rng = np.random.default_rng([Seeds.PROMPTS, index, 1])
    places, colors = (*PLACES, None), tuple(COLORS)
    for _ in range(100):
        color = colors[rng.integers(len(colors))] if subject in OBJECTS else None
        scene = Scene(subject=subject, color=color, place=places[rng.integers(len(places))])
        if is_held_out(scene) == held_out:
            break
    return scene


def said(readings: list[Reading], scenes: list[Scene]) -> dict[str, float | None]:
    """Compute the share of images that show what their prompt says, by attribute and in all."""
    pairs = list(zip(readings, scenes, strict=True))
    result: dict[str, float | None] = {}
    for name in ("subject", "color", "place"):
        hits = [
            getattr(r, name) == getattr(s, name) for r, s in pairs if getattr(s, name) is not None
        ]
        result[name] = float(np.mean(hits)) if hits else None
    whole = [
        r.subject == s.subject and r.place == s.place and s.color in (None, r.color)
        for r, s in pairs
    ]
    result["all"] = float(np.mean(whole)) if whole else None
    return result


def _color_distance(readings: list[Reading], scenes: list[Scene]) -> float | None:
    """Mean difference of the colour seen from the colour asked for."""
    apart = [
        float(delta_e(COLORS[r.color], COLORS[s.color]))
        for r, s in zip(readings, scenes, strict=True)
        if r.color is not None and s.color is not None
    ]
    return float(np.mean(apart)) if apart else None


def nearest(images: Images, references: Images) -> float:
    """Mean over images of the root-mean-square distance, 0..255, to the nearest reference."""
    flat = torch.from_numpy(images).float().flatten(1)
    others = torch.from_numpy(references).float().flatten(1)
    distance = torch.cdist(flat, others).min(dim=1).values / flat.shape[1] ** 0.5
    return float(distance.mean())


def spread(masks: npt.NDArray[np.bool_]) -> float:
    """Standard deviation of the horizontal centre of masks, as a fraction of the width."""
    columns = np.arange(masks.shape[2]) / masks.shape[2]
    centres = [float((m.sum(0) * columns).sum() / m.sum()) for m in masks if m.any()]
    return float(np.std(centres)) if centres else 0.0


@torch.no_grad()
def round_trip(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Encode and decode uint8 NHWC images; float NCHW in [-1, 1]."""
    parts = []
    for part in portions(images, 32):
        latents = encode(vae, part) / vae.config.scaling_factor
        parts.append(vae.decode(latents.to(vae.dtype)).sample.float().cpu())
    return torch.cat(parts)


def _generate(
    pipeline: StableDiffusionPipeline, scenes: list[Scene], config: EvalConfig
) -> tuple[Images, float]:
    """Generate one image per scene's caption; return them and the seconds each took."""
    parts, since = [], time.monotonic()
    for start in range(0, len(scenes), 16):
        prompts = [scene.caption() for scene in scenes[start : start + 16]]
        parts.append(draw_prompts(pipeline, prompts, config.steps, config.guidance, start + 1))
    return np.concatenate(parts), (time.monotonic() - since) / len(scenes)


def evaluate_model(
    folder: Path,
    output: Path,
    config: EvalConfig,
    device: torch.device,
    judge_weights: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure a saved pipeline and write `report.json`, `table.md` and `sheet.png`.

    Args:
        folder: The saved pipeline.
        output: Folder for the three files; made if missing.
        config: How much to measure.
        device: Where to compute.
        judge_weights: The judge's file; None takes the one that comes with the package.
        report: Receives a line of text before each part.

    Raises:
        ConfigError: if fewer than 4 prompts are asked for.
        ModelError: if pipeline or judge cannot be loaded.
    """
    if config.prompts < 4:
        raise ConfigError(f"--prompts is {config.prompts}, but must be at least 4.")
    judge, pipeline = Judge.load(judge_weights, device), load_pipeline(folder, device)
    report(f"generating {config.prompts} images")
    scenes = balanced_scenes(config.prompts)
    images, seconds = _generate(pipeline, scenes, config)
    readings = judge.read(images)
    report("measuring autoencoder and judge")
    result = _measure(pipeline, judge, config, scenes, images, readings, seconds)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=2) + "\n"
    (output / "report.json").write_text(text, encoding="utf-8")
    (output / "table.md").write_text(table(result), encoding="utf-8")
    _sheet(output / "sheet.png", images, scenes, readings)
    return result


def _measure(
    pipeline: StableDiffusionPipeline,
    judge: Judge,
    config: EvalConfig,
    scenes: list[Scene],
    images: Images,
    readings: list[Reading],
    seconds: float,
) -> Report:
    """Put all the numbers together."""
    size = images.shape[1]
    new = [is_held_out(scene) for scene in scenes]
    groups = [
        ([r for r, n in zip(readings, new, strict=True) if n == wanted],
         [s for s, n in zip(scenes, new, strict=True) if n == wanted])
        for wanted in (False, True)
    ]  # fmt: skip
    fresh = [scene_at(Seeds.CHECK_JUDGE, i, "held-out") for i in range(config.scenes)]
    rendered, masks, _ = labelled(fresh, size)
    decoded = round_trip(pipeline.vae, rendered)
    known = render([scene_at(Seeds.MODEL, i) for i in range(4 * config.scenes)], size).numpy()
    trips = judge.read(to_bytes(decoded).numpy())
    return Report(
        prompts=config.prompts,
        guidance=config.guidance,
        steps=config.steps,
        resolution=size,
        seen=said(*groups[0]),
        held_out=said(*groups[1]),
        color_delta_e=_color_distance(readings, scenes),
        vae_psnr=float(psnr(decoded, to_signed(rendered)).mean()),
        judge_rendered=judge_scores(judge, fresh),
        judge_round_trip=reading_scores(trips, fresh, masks.numpy()),
        neighbour=nearest(images, known),
        neighbour_fresh=nearest(rendered.numpy(), known),
        spread=spread(np.stack([r.mask for r in readings])),
        spread_true=spread(masks.numpy()),
        seconds_per_image=seconds,
    )


def _percent(value: float | None) -> str:
    """Write a share for the table."""
    return "–" if value is None else f"{100 * value:.0f} %"


def table(report: Report) -> str:
    """Write a report as the Markdown tables of the model card."""
    lines = [
        f"{report.prompts} prompts, {report.steps} DDIM steps, guidance {report.guidance:g}, "
        f"{report.resolution} px.",
        "",
        "| the image shows the prompt's | combinations trained on | combinations never seen |",
        "|---|---|---|",
    ]
    for name in ("subject", "color", "place", "all"):
        lines.append(
            f"| {name} | {_percent(report.seen[name])} | {_percent(report.held_out[name])} |"
        )
    distance = "–" if report.color_delta_e is None else f"{report.color_delta_e:.1f}"
    ours, trips = report.judge_rendered, report.judge_round_trip
    lines += [
        "",
        "| measured | value |",
        "|---|---|",
        f"| mean ΔE (CIE 1976) of the colour seen from the colour asked for | {distance} |",
        f"| autoencoder, PSNR on held-out scenes | {report.vae_psnr:.1f} dB |",
        f"| nearest training scene, RMS of 255: generated / fresh scenes | "
        f"{report.neighbour:.1f} / {report.neighbour_fresh:.1f} |",
        f"| spread of horizontal position: generated / rendered | "
        f"{report.spread:.3f} / {report.spread_true:.3f} |",
        f"| seconds per image | {report.seconds_per_image:.2f} |",
        "",
        "| the judge on held-out scenes | rendered | after the autoencoder |",
        "|---|---|---|",
    ]
    for name in ("subject", "color", "place", "style"):
        lines.append(f"| {name} | {100 * ours[name]:.1f} % | {100 * trips[name]:.1f} % |")
    lines.append(
        f"| colour, mean ΔE | {ours['color_delta_e']:.2f} | {trips['color_delta_e']:.2f} |"
    )
    lines.append(f"| mask, IoU | {ours['mask_iou']:.3f} | {trips['mask_iou']:.3f} |")
    return "\n".join(lines) + "\n"


def card_parts(card: Path) -> tuple[str, str]:
    """Return what stands in a model card before and after its table, which is between `MARKS`.

    Raises:
        ConfigError: if the card cannot be read, or has no such place.
    """
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{card} is no model card that can be read: {error}.") from error
    before, found, rest = text.partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    if not (found and closed):
        raise ConfigError(f"{card} has no place for the table: {MARKS[0]} ... {MARKS[1]}.")
    return before, after


def update_card(card: Path, output: Path) -> None:
    """Put the table of an evaluation into a model card and its sheet beside the card.

    Args:
        card: Markdown file in which the table stands between `MARKS`.
        output: Folder that `evaluate_model` wrote.

    Raises:
        ConfigError: if the card has no such place.
    """
    before, after = card_parts(card)
    numbers = (output / "table.md").read_text(encoding="utf-8")
    card.write_text(f"{before}{MARKS[0]}\n{numbers}{MARKS[1]}{after}", encoding="utf-8")
    shutil.copyfile(output / "sheet.png", card.with_suffix(".png"))


def _sheet(path: Path, images: Images, scenes: list[Scene], readings: list[Reading]) -> None:
    """Draw the first 48 images with their prompts and what the judge saw."""
    texts = [
        f"{scene.caption()}: {' '.join(filter(None, (reading.color, reading.subject)))}"
        for scene, reading in zip(scenes, readings, strict=True)
    ]
    write_sheet(path, images[:48], 8, texts[:48])
