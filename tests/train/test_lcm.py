"""Distillation into a LoRA: the paths, what is learned from them, and the file that comes out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors import safe_open
from typer.testing import CliRunner

import freeprompt as fp
from freeprompt.cli.train import app
from freeprompt.errors import ConfigError
from freeprompt.train.config import Preset
from freeprompt.train.lcm import LCMTask, cut, export_lcm, train_lcm
from freeprompt.train.loop import Run, load_checkpoint
from freeprompt.train.paths import Ladder, Paths, build_paths

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def distilled(runs: Path, tiny: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 uninterrupted steps, and its LoRA beside it."""
    folder = tmp_path_factory.mktemp("lcm")
    train_lcm(tiny, tiny.lcm_train, Run(folder=folder), runs / "pipeline", CPU)
    export_lcm(tiny, folder, runs / "pipeline", folder / "lcm.safetensors")
    return folder


@pytest.fixture
def task(distilled: Path, runs: Path, tiny: Preset) -> LCMTask:
    paths = Paths(distilled / "paths", tiny.lcm_train.seed)
    return LCMTask(tiny, tiny.lcm_train, runs / "pipeline", paths, CPU)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_levels_are_those_of_trailing_schedules(task: LCMTask, steps: int) -> None:
    stock = DDIMScheduler.from_config(task.pipeline.scheduler.config, timestep_spacing="trailing")
    stock.set_timesteps(steps)
    ours = task.ladder.labels[1:].flip(0)[:: 4 // steps]
    assert stock.timesteps.tolist() == ours.tolist()


@torch.no_grad()
def test_a_path_is_the_teacher_s_guided_ddim(
    distilled: Path, runs: Path, tiny: Preset, task: LCMTask
) -> None:
    """The whole stock pipeline, from the same noise, ends where the path ends."""
    teacher = fp.load(runs / "pipeline", device="cpu").pipe
    config = {**teacher.scheduler.config, "timestep_spacing": "trailing", "set_alpha_to_one": True}
    teacher.scheduler = DDIMScheduler.from_config(config)
    paths, steps = task.paths, tiny.lcm.levels * tiny.lcm.substeps
    end = teacher(
        paths.prompts(np.array([3])),
        latents=paths.at(np.array([3]), np.array([tiny.lcm.levels])),
        num_inference_steps=steps,
        guidance_scale=tiny.lcm.guidance,
        output_type="latent",
    ).images
    assert torch.allclose(end, paths.ends(np.array([3])), atol=2e-2)


def test_paths_that_are_there_are_kept(runs: Path, tiny: Preset, tmp_path: Path) -> None:
    teacher = fp.load(runs / "pipeline", device="cpu").pipe
    few = replace(tiny.lcm, paths=1)
    build_paths(teacher, few, tiny.lcm_train, tmp_path)
    first = np.load(tmp_path / "paths.npy")
    build_paths(teacher, tiny.lcm, tiny.lcm_train, tmp_path)
    every = np.load(tmp_path / "paths.npy")
    assert (len(first), len(every)) == (3, tiny.lcm.paths + tiny.lcm.checked)
    assert np.array_equal(every[:3], first)
    assert every.shape[1] == tiny.lcm.levels + 1


def test_a_run_that_is_stopped_while_it_walks_learns_nothing_yet(
    runs: Path, tiny: Preset, tmp_path: Path
) -> None:
    many = replace(tiny, lcm=replace(tiny.lcm, paths=20))
    run = Run(folder=tmp_path, stop=lambda: True)
    assert train_lcm(many, tiny.lcm_train, run, runs / "pipeline", CPU) is None
    assert len(np.load(tmp_path / "paths" / "paths.npy")) == 16
    assert not (tmp_path / "checkpoint.pt").exists()


def test_as_many_paths_are_walked_at_once_as_a_batch_holds(
    runs: Path, tiny: Preset, tmp_path: Path
) -> None:
    teacher, told = fp.load(runs / "pipeline", device="cpu").pipe, []
    config, sizes = replace(tiny.lcm_train, batch=20), replace(tiny.lcm, paths=20)
    build_paths(teacher, sizes, config, tmp_path, report=told.append)
    assert told == ["walked 20 of 22 paths", "walked 22 of 22 paths"]


def test_the_last_paths_are_kept_back(task: LCMTask, tiny: Preset) -> None:
    drawn = {tuple(end.flatten()[:4].tolist()) for s in range(20) for end in task.draw(s)[1]}
    last = task.paths.ends(np.arange(len(task.paths) - tiny.lcm.checked, len(task.paths)))
    assert drawn and not drawn & {tuple(end.flatten()[:4].tolist()) for end in last}


def test_all_levels_are_drawn_equally_often(task: LCMTask, tiny: Preset) -> None:
    levels = torch.cat([task.draw(step)[2] for step in range(200)])
    counts = torch.bincount(levels)[1:]
    assert len(counts) == tiny.lcm.levels and counts.min() > 0.6 * counts.float().mean()


@torch.no_grad()
def test_a_student_that_knows_the_ends_has_no_loss(task: LCMTask, monkeypatch) -> None:
    x, end, level, text = task.prepare(task.draw(0), 0)
    monkeypatch.setattr(LCMTask, "seen", lambda self, x, level, text: end)
    assert float(task.loss(x, end, level, text)) == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr(LCMTask, "seen", lambda self, x, level, text: end + 1)
    assert float(task.loss(x, end, level, text)) == pytest.approx(1, abs=0.05)


def test_it_learns(runs: Path, tiny: Preset, distilled: Path, tmp_path: Path) -> None:
    """Forty steps of a rank of 2 bring the images seen nearer to the ends of paths learned from."""
    config = replace(tiny.lcm_train, steps=40, batch=8, rate=1e-2, log_every=1)
    task = LCMTask(tiny, config, runs / "pipeline", Paths(distilled / "paths", 0), CPU)
    batch = task.prepare(task.draw(0), 0)
    with torch.no_grad():
        before = float(task.loss(*batch))
    from freeprompt.train.loop import fit

    fit(task, config, Run(folder=tmp_path))
    with torch.no_grad():
        assert float(task.loss(*batch)) < 0.98 * before


def test_it_resumes_exactly(runs: Path, tiny: Preset, distilled: Path, tmp_path: Path) -> None:
    asked = iter([False] * 100)  # asked while paths are walked, too
    teacher, config = runs / "pipeline", tiny.lcm_train
    train_lcm(tiny, replace(config, steps=2), Run(folder=tmp_path), teacher, CPU)
    train_lcm(
        tiny, config, Run(folder=tmp_path, resume=True, stop=lambda: next(asked)), teacher, CPU
    )
    one, two = load_checkpoint(distilled), load_checkpoint(tmp_path)
    assert one["step"] == two["step"] == 4
    for name in ("module", "ema"):
        ours, theirs = (list(c[name].values() if name == "module" else c[name]) for c in (one, two))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_file_says_what_it_is_and_changes_the_model(distilled: Path, runs: Path) -> None:
    file = distilled / "lcm.safetensors"
    with safe_open(file, "pt") as stored:
        assert stored.metadata()["distilled"] == "lcm"
    editor = fp.load(runs / "pipeline", device="cpu", lora=[file])
    result = editor.edit("a blue car", source="a red car")
    assert (result.provenance.steps, result.provenance.guidance) == (4, 1.0)
    assert editor.model.schedule(4).timesteps == (999, 749, 499, 249)
    plain = fp.load(runs / "pipeline", device="cpu")
    other = plain.edit("a blue car", source="a red car", steps=4, guidance=1)
    assert result.images[0].tobytes() != other.images[0].tobytes()


def test_a_cut_lora_is_the_nearest_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(6, 8, 3, 3, generator=generator)
    up = torch.randn(10, 6, 1, 1, generator=generator)
    pair = {"x.lora_A.weight": down, "x.lora_B.weight": up}

    def product(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return tensors["x.lora_B.weight"].flatten(1) @ tensors["x.lora_A.weight"].flatten(1)

    whole, less = cut(pair, 6), cut(pair, 2)
    assert torch.allclose(product(whole), product(pair), atol=1e-3)
    assert less["x.lora_A.weight"].shape == (2, 8, 3, 3)
    assert less["x.lora_B.weight"].shape == (10, 2, 1, 1)
    missing = torch.linalg.svdvals(product(pair))[2:].square().sum().sqrt()
    assert torch.allclose((product(less) - product(pair)).norm(), missing, rtol=1e-3)


def test_paths_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"paths\.npy"):
        Paths(tmp_path, 0)


def test_the_ladder_ends_without_noise(task: LCMTask) -> None:
    ladder: Ladder = task.ladder
    x = torch.randn(2, 4, 8, 8)
    zero = torch.zeros(2, dtype=torch.long)
    assert torch.equal(ladder.mixed(x, torch.randn_like(x), zero), x)


def test_the_command(runs: Path, tmp_path: Path) -> None:
    arguments = ["lcm", "--run", tmp_path / "run", "--teacher", runs / "pipeline", "--rank", 1]
    arguments += ["--preset", "tiny", "--output", tmp_path / "few.safetensors", "--device", "cpu"]
    ended = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert ended.exit_code == 0 and "MB" in ended.output
    with safe_open(tmp_path / "few.safetensors", "pt") as stored:
        names = [name for name in stored.keys() if ".lora_A." in name]  # noqa: SIM118
        assert names and all(stored.get_slice(name).get_shape()[0] == 1 for name in names)
