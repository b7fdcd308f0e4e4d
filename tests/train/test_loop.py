"""The pieces of the loop, against slow or known truths."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from freeprompt.errors import ConfigError, ModelError, SaveError
from freeprompt.train.config import PRESETS, preset, with_options
from freeprompt.train.loop import (
    EMA,
    Run,
    Trainer,
    load_checkpoint,
    rate_at,
    resolve_device,
    save_atomically,
)
from freeprompt.train.optim import Muon, build_optimiser, orthogonalise
from freeprompt.train.vae import VAETask

TRAIN = preset("tiny").vae_train
CPU = torch.device("cpu")


def test_ema_warms_up_and_can_be_applied() -> None:
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, decay=0.9)
    before = ema.parameters[0].clone()
    with torch.no_grad():
        module.weight += 1
    ema.update(module, step=0)
    assert torch.allclose(ema.parameters[0], before + 0.9)
    own = module.weight.clone()
    with ema.applied(module):
        assert torch.equal(module.weight, ema.parameters[0])
    assert torch.equal(module.weight, own)


def test_rates() -> None:
    config = replace(TRAIN, rate=1.0, warmup=10, steps=100)
    assert rate_at(config, 0) == pytest.approx(0.1)
    assert rate_at(config, 50) == 1.0
    falling = replace(config, decay=True)
    assert rate_at(falling, 100) == pytest.approx(0.01)
    assert rate_at(falling, 50) == pytest.approx(0.505)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_atomically({"step": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_atomically({"step": lambda: 2}, path)
    assert torch.load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SaveError, match="could not be written"):
        save_atomically({"step": 2}, tmp_path / "missing" / "checkpoint.pt")


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    task = VAETask(preset("tiny").vae, TRAIN, CPU, 2)
    trainer = Trainer(task, TRAIN, Run(folder=tmp_path))
    trainer.save()
    trainer.step = 7
    trainer.ema.parameters[3].view(-1)[0] = float("nan")
    with pytest.raises(ModelError, match=r"diverged: after step 7 .* --rate"):
        trainer.save()
    assert load_checkpoint(tmp_path)["step"] == 0


def test_a_checkpoint_of_another_preset_is_named_as_such(tmp_path: Path) -> None:
    Trainer(VAETask(preset("tiny").vae, TRAIN, CPU, 2), TRAIN, Run(folder=tmp_path)).save()
    wider = replace(preset("tiny").vae, channels=(8, 8, 32))
    other = Trainer(VAETask(wider, TRAIN, CPU, 2), TRAIN, Run(folder=tmp_path, resume=True))
    with pytest.raises(ConfigError, match="of another preset"):
        other.load()


def test_threads_change_a_gradient_by_rounding_only() -> None:
    sizes, gradients = preset("tiny").vae, []
    for threads in (1, 2):
        config = replace(TRAIN, batch=3, threads=threads)
        torch.manual_seed(0)
        task = VAETask(sizes, config, CPU, 2)
        trainer = Trainer(task, config, Run(folder=Path()))
        trainer.gradients(task.prepare(next(task.batches(0, 1)), 0))
        gradients.append([p.grad for p in trainer.parameters])
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonal_updates(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_matrices_of_one_shape_move_together_as_they_do_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(6, 20), (20, 6), (6, 20), (8, 4, 3, 3), (20, 6, 1, 1), (8, 4, 3, 3)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    moved = []
    for together in (False, True):
        weights = [nn.Parameter(start.clone()) for start in starts]
        optimiser = Muon(weights, [], rate=0.1, together=together)
        for _ in range(2):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
            optimiser.step()
        moved.append([w.detach() - s for w, s in zip(weights, starts, strict=True)])
    for alone, along in zip(*moved, strict=True):
        assert (along - alone).norm() < 0.02 * alone.norm()  # bfloat16 within


def test_muon_takes_matrices_and_leaves_the_rest_to_adamw() -> None:
    task = VAETask(preset("tiny").vae, TRAIN, CPU, 2)
    optimiser = build_optimiser(task.module, TRAIN)
    assert isinstance(optimiser, Muon)
    matrices, others = optimiser.param_groups
    assert all(p.ndim >= 2 for p in matrices["params"])
    assert task.vae.encoder.conv_in.weight in set(others["params"])
    adamw = build_optimiser(task.module, replace(TRAIN, optimiser="adamw"))
    assert isinstance(adamw, torch.optim.AdamW)


def test_muons_other_half_is_adamw() -> None:
    weights = [nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    ours = Muon([], [weights[0]], rate=0.1)
    theirs = torch.optim.AdamW([weights[1]], lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(3):
        for weight, optimiser in zip(weights, (ours, theirs), strict=True):
            weight.grad = (weight.detach() + step).sin()
            optimiser.step()
    assert torch.allclose(*weights, atol=1e-6)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cpu64'"):
        preset("cpu46")
    with pytest.raises(ConfigError, match="--batch is 0"):
        with_options(TRAIN, batch=0)
    with pytest.raises(ConfigError, match="Unknown device"):
        resolve_device("abacus")
    with pytest.raises(ConfigError, match="not on 'meta'"):
        resolve_device("meta")
    with pytest.raises(ConfigError, match="CUDA device"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")
    for seed in (-1, 100_000):  # where the stream of another network begins
        with pytest.raises(ConfigError, match=f"--seed is {seed}"):
            with_options(TRAIN, seed=seed)
    assert resolve_device("cpu") == CPU


def test_options_replace_only_what_is_given() -> None:
    assert with_options(TRAIN, batch=None, steps=7) == replace(TRAIN, steps=7)


def test_presets_are_consistent() -> None:
    for name, value in PRESETS.items():
        assert value.name == name
        for widths, groups in (
            (value.vae.channels, value.vae.norm_groups),
            (value.model.channels, value.model.norm_groups),
            (value.judge.channels, 8),
        ):
            assert all(width % groups == 0 for width in widths)
        assert value.vae.latent_size % 8 == 0
