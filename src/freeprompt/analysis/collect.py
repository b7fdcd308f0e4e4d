"""Collecting attention maps for probes: generated and teacher-forced, a shard a seed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeprompt.analysis.tasks import ProbeTask, probe_task
from freeprompt.core import TARGET, Control, Rows, Sites, Window, denoise
from freeprompt.core.attention import Call
from freeprompt.errors import ConfigError, SaveError
from freeprompt.images import to_tensor, write_json
from freeprompt.models import UNetModel

Origin = Literal["generated", "forced"]
SELF = "map"  # stands where a cross map has the name of its token
Maps = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is collected.

    Attributes:
        task: Name of the probe task.
        maps: `cross`, `self` or both.
        tokens: Whose cross maps; names as in `ProbeTask.tokens`.
        seeds: Number of seeds, from 0; each gives one sample a class.
        steps: Number of denoising steps.
        at: Steps whose maps are kept, 0 being the noisiest.
        guidance: Guidance scale of the generation.
        pool: Self maps are averaged to at most this many cells a side, over queries and over keys.
    """

    task: str
    maps: tuple[str, ...] = ("cross",)
    tokens: tuple[str, ...] = ("class",)
    seeds: int = 40
    steps: int = 50
    at: tuple[int, ...] = (0, 12, 25, 37, 49)
    guidance: float = 7.5
    pool: int = 4

    def __post_init__(self) -> None:
        probe_task(self.task)
        if not self.maps or set(self.maps) - {"cross", "self"}:
            raise ConfigError(f"maps must be cross, self or both; got {self.maps!r}.")
        if self.seeds < 2:
            raise ConfigError(
                f"{self.seeds} seed(s) cannot be split into training and test. Use at least 2."
            )
        if self.pool < 1:
            raise ConfigError(f"Self maps keep at least 1 cell a side; got pool={self.pool}.")
        if not self.at or min(self.at) < 0 or max(self.at) >= self.steps:
            raise ConfigError(
                f"Maps are kept at steps {self.at}, but steps run from 0 to {self.steps - 1}."
            )

    @property
    def forwards(self) -> int:
        """Number of sample-forwards that all seeds need."""
        count, halves = len(probe_task(self.task).classes), 2 if self.guidance > 1 else 1
        return self.seeds * count * (halves * self.steps + len(self.at))

    def kinds(self) -> list[tuple[str, str]]:
        """Return what is read at a site: (kind of map, token) pairs."""
        cross = [("cross", token) for token in self.tokens] if "cross" in self.maps else []
        return cross + ([("self", SELF)] if "self" in self.maps else [])


def evenly(steps: int, count: int) -> tuple[int, ...]:
    """Return `count` steps from the first to the last, evenly spaced, without repeats."""
    return tuple(sorted({round(float(x)) for x in np.linspace(0, steps - 1, count)}))


@dataclass(frozen=True, kw_only=True)
class Snapshot(Control):
    """Keeps the maps of one step, averaged over heads; the picture stays bit for bit the same.

    Args:
        sites: Where.
        window: The one step.
        tokens: For each target item and each name, the tokens whose columns are added up.
        pool: See `Recipe.pool`.

    Attributes:
        kept: (site name, token name) -> (items, features), float32 on the CPU.
    """

    sites: Sites = field()
    window: Window = field()
    tokens: Sequence[dict[str, tuple[int, ...]]]
    pool: int
    kept: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    needs_probs = True
    observes = True

    def probs(self, call: Call, probs: Tensor) -> Tensor:
        rows = list(call.rows.targets("cond"))
        mean = torch.stack([probs[i].mean(0) for i in rows]).float().cpu()
        if call.site.kind == "self":
            self.kept[call.site.name, SELF] = pooled(mean, call.grid, self.pool)
            return probs
        for name in self.tokens[0]:
            columns = [
                one[:, list(tokens[name])].sum(-1)
                for one, tokens in zip(mean, self.tokens, strict=True)
            ]
            self.kept[call.site.name, name] = torch.stack(columns)
        return probs


def pooled(
    maps: Float[Tensor, "items query key"], grid: tuple[int, int], side: int
) -> Float[Tensor, "items features"]:
    """Shrink self maps: the mean over neighbouring queries, the sum over neighbouring keys.

    Args:
        maps: Self-attention maps; each row sums to 1 over `key`, and does so afterwards.
        grid: (height, width) of the tokens.
        side: At most this many cells a side remain.
    """
    height, width = min(grid[0], side), min(grid[1], side)
    items, tokens, _ = maps.shape
    keys = F.adaptive_avg_pool2d(maps.reshape(items, tokens, *grid), (height, width)).flatten(2)
    queries = keys.transpose(1, 2).reshape(items, height * width, *grid)
    both = F.adaptive_avg_pool2d(queries, (height, width)).flatten(2).transpose(1, 2)
    return (both / both.sum(-1, keepdim=True)).flatten(1)


def collect(
    model: UNetModel,
    recipe: Recipe,
    folder: Path,
    callback: Callable[[int, int], None] | None = None,
) -> "Collection":
    """Collect maps seed by seed; seeds that are there already are not made again.

    Args:
        model: The model.
        recipe: What to collect.
        folder: Where shards go, `seed-00007.safetensors`.
        callback: Called with the number of seeds done and of all, after each.

    Returns:
        The collection, read from the shards.

    Raises:
        ConfigError: if the folder holds a collection made in another way.
        SaveError: if nothing can be written there.
    """
    _claim(folder, {**asdict(recipe), "model": _identity(model)})
    for seed in range(recipe.seeds):
        path = _shard(folder, seed)
        if not path.exists():
            _save(_one_seed(model, recipe, seed), path)
        if callback is not None:
            callback(seed + 1, recipe.seeds)
    return Collection(folder, recipe, sites_of(model))


def sites_of(model: UNetModel) -> dict[str, list[str]]:
    """Return the names of a model's attention sites by kind, in execution order."""
    kinds = ("cross", "self")
    return {kind: [site.name for site in model.sites if site.kind == kind] for kind in kinds}


def start_noise(model: UNetModel, seed: int) -> Tensor:
    """Return the start noise that a seed means everywhere, (1, channels, height, width)."""
    shape = model.latent_shape(model.native_size, model.native_size)
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
    return noise.to(model.device, model.dtype)


class Collection:
    """Collected maps, read from their shards as they are asked for.

    Args:
        folder: Where the shards are.
        recipe: How they were made.
        sites: Names of the sites by kind.
    """

    def __init__(self, folder: Path, recipe: Recipe, sites: dict[str, list[str]]):
        self.folder, self.recipe, self.sites = folder, recipe, sites
        self.task: ProbeTask = probe_task(recipe.task)

    def maps(self, site: str, step: int, token: str, origin: Origin = "generated") -> Maps:
        """Return flat maps, (seeds * classes, features), sorted by seed, then by class."""
        key = f"{origin}/{site}/{step}/{token}"
        return np.concatenate([self._read(seed, key).numpy() for seed in self._seeds])

    @property
    def labels(self) -> Labels:
        """The class of the prompt of every sample."""
        return np.tile(np.arange(len(self.task.classes)), self.recipe.seeds)

    @property
    def seeds(self) -> Labels:
        """The seed of every sample."""
        return np.repeat(np.arange(self.recipe.seeds), len(self.task.classes))

    @property
    def forced_images(self) -> Labels:
        """The class of the image under every teacher-forced sample, never that of its prompt."""
        return np.concatenate([self._read(seed, "forced_images").numpy() for seed in self._seeds])

    def latents(self, seed: int) -> Tensor:
        """Return the generated latents of one seed, one a class."""
        return self._read(seed, "latents")

    @property
    def _seeds(self) -> range:
        return range(self.recipe.seeds)

    def _read(self, seed: int, key: str) -> Tensor:
        path = _shard(self.folder, seed)
        try:
            with safe_open(path, "pt") as file:
                tensor: Tensor = file.get_tensor(key)
                return tensor
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"{str(path)!r} has no {key!r} ({error}). Collect again into another folder."
            ) from error


@torch.no_grad()
def _one_seed(model: UNetModel, recipe: Recipe, seed: int) -> dict[str, Tensor]:
    task = probe_task(recipe.task)
    prompts = [task.prompt(label, seed) for label in range(len(task.classes))]
    spellings = [model.spell(prompt) for prompt in prompts]
    tokens = [
        {name: task.tokens(spelling, name, label) for name in recipe.tokens}
        for label, spelling in enumerate(spellings)
    ]
    generated, forced = _snapshots(recipe, tokens), _snapshots(recipe, tokens)
    latents = _generate(model, recipe, prompts, seed, list(generated.values()))
    images = _others(len(prompts), seed)
    _force(model, recipe, prompts, seed, images, forced)
    return {
        "latents": latents.float().cpu(),
        "forced_images": torch.tensor(images),
        **_named("generated", generated),
        **_named("forced", forced),
    }


def _snapshots(recipe: Recipe, tokens: Sequence[dict[str, tuple[int, ...]]]) -> dict[int, Snapshot]:
    sites = Sites("+".join(f"{kind}:all" for kind in recipe.maps))
    return {
        step: Snapshot(sites=sites, window=Window(step, step + 1), tokens=tokens, pool=recipe.pool)
        for step in recipe.at
    }


def _named(origin: Origin, snapshots: dict[int, Snapshot]) -> dict[str, Tensor]:
    return {
        f"{origin}/{site}/{step}/{token}": maps.contiguous()
        for step, snapshot in snapshots.items()
        for (site, token), maps in snapshot.kept.items()
    }


def _generate(
    model: UNetModel, recipe: Recipe, prompts: list[str], seed: int, controls: list[Snapshot]
) -> Tensor:
    """Generate every class from one noise, so that nothing but the class differs in a seed."""
    rows = TARGET.without(half="uncond") if recipe.guidance <= 1 else TARGET
    done = denoise(
        model,
        model.schedule(recipe.steps),
        {"target": start_noise(model, seed).expand(len(prompts), -1, -1, -1)},
        text={"target": model.encode_text(prompts)},
        null=model.encode_text([""]),
        rows=rows.with_targets(len(prompts)),
        controls=controls,
        guidance=recipe.guidance,
    )
    return done.state["target"]


def _others(count: int, seed: int) -> list[int]:
    """Return for each class another one, each class once: a cycle through a random order."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(count)]
    follower = dict(zip(order, order[1:] + order[:1], strict=True))
    return [follower[i] for i in range(count)]


def _force(
    model: UNetModel,
    recipe: Recipe,
    prompts: list[str],
    seed: int,
    images: list[int],
    snapshots: dict[int, Snapshot],
) -> None:
    """Show the network noised renderings of other classes than its prompts name."""
    schedule, task = model.schedule(recipe.steps), probe_task(recipe.task)
    clean = [_rendering(model, task, image, seed) for image in images]
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn((2, *clean[0].shape), generator=generator)[1]  # not the start noise
    rows = Rows(tuple(TARGET.without(half="uncond").with_targets(len(prompts))))
    text = model.encode_text(prompts)
    with model.attach(list(snapshots.values()), rows) as run:
        for step in recipe.at:
            noisy = [schedule.noised(x, noise.to(x), step) for x in clean]
            batch = torch.cat(noisy)
            with run.at(step, (batch.shape[-2], batch.shape[-1])):
                model.predict(batch, schedule.timesteps[step], text)


def _rendering(model: UNetModel, task: ProbeTask, label: int, seed: int) -> Tensor:
    picture = task.scene(label, seed).render(model.native_size).image
    return model.encode_image(to_tensor(Image.fromarray(picture)))


def _identity(model: UNetModel) -> str:
    from freeprompt.models.fingerprint import fingerprint

    return fingerprint(model.pipe)


def _shard(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed:05d}.safetensors"


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a shard whole or not at all, so that a broken run leaves no half of one."""
    draft = path.with_suffix(".tmp")
    try:
        save_file(tensors, draft)
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"{str(path)!r} could not be written: {error}.") from error


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note how a folder's shards are made, or check that they were made in the same way.

    The number of seeds may grow: shards of earlier seeds stay what they are.
    """
    claim(folder / "collection.json", settings, ignoring=("seeds",))


def claim(path: Path, settings: dict[str, Any], ignoring: Sequence[str] = ()) -> None:
    """Write settings into a new folder's file, or check an existing one's against them.

    Raises:
        ConfigError: naming the settings that differ.
    """
    settings = json.loads(json.dumps(settings))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        names = sorted((set(before) | set(settings)) - set(ignoring))
        changed = [n for n in names if before.get(n) != settings.get(n)]
        if changed:
            raise ConfigError(
                f"{str(path.parent)!r} holds results made with other settings: "
                + ", ".join(f"{n} {before.get(n)!r}, now {settings.get(n)!r}" for n in changed)
                + ". Use the same settings to continue, or choose another folder."
            )
    write_json(path, settings)
