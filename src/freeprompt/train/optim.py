"""Muon: momentum whose update of each matrix is made orthogonal.

For a network that sees few images it learns about twice as much per image as AdamW does. Biases,
norms, embeddings and the first and last layers are no matrices in that sense and take AdamW steps.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn

from freeprompt.train.config import TrainConfig

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def enter_thread(threads: int) -> None:
    """Prepare one of several threads that compute side by side; the settings are the thread's."""
    if threads > 1:
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # second moments sink that low, and then slow a CPU down.


def orthogonalise(matrix: Tensor, steps: int = 4) -> Tensor:
    """Bring the singular values of a matrix close to 1 by a Newton-Schulz iteration in bfloat16.

    Args:
        matrix: `(rows, columns)`, any scale, or many of one shape, `(count, rows, columns)`.
        steps: Iterations.

    Returns:
        A matrix of the same shape and dtype with singular values of about 0.7 .. 1.2,
        except those that were below a thousandth of its norm, which stay smaller.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = _COEFFICIENTS
    tall, one = matrix.shape[-2] > matrix.shape[-1], matrix.ndim == 2
    multiplied = torch.addmm if one else torch.baddbmm
    x = matrix.bfloat16()
    x = x.mT if tall else x
    x = x / ((x.norm() if one else x.norm(dim=(1, 2), keepdim=True)) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = multiplied(x, multiplied(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of a module and AdamW for its other parameters, at one rate.

    The orthogonal update is scaled to the size that an AdamW update has, so rates and weight decay
    mean what they mean there. A convolution's kernel counts as a matrix of outputs by inputs.

    Args:
        matrices: Parameters of two or more dimensions.
        others: All other parameters.
        rate: Learning rate.
        momentum: Decay of the Nesterov momentum.
        betas: Decays of AdamW's moments.
        weight_decay: Decoupled weight decay.
        threads: Matrices that are made orthogonal at once, each on one CPU core.
        together: Make those of one shape orthogonal as one tensor instead, as a GPU wants it.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        rate: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        threads: int = 1,
        together: bool = False,
    ) -> None:
        self.together = together
        self.pool = ThreadPoolExecutor(threads, initializer=enter_thread, initargs=(threads,))
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        defaults = {
            "lr": rate,
            "momentum": momentum,
            "betas": betas,
            "weight_decay": weight_decay,
        }
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; `closure`, if given, is called first for the loss."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                (self._muon if group["muon"] else self._adam)(parameters, group)
        return loss

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step along the orthogonalised momentum."""
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[p]["momentum"] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        if self.together:
            _move_together(group["lr"], parameters, ahead)
        else:
            list(self.pool.map(partial(_move, group["lr"]), parameters, ahead))

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step as AdamW does."""
        first, second = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
        count = float(self.state[parameters[0]]["step"])
        means = [self.state[p]["mean"] for p in parameters]
        squares = [self.state[p]["square"] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = torch._foreach_div(squares, 1 - second**count)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, 1e-8)
        torch._foreach_addcdiv_(parameters, means, roots, -group["lr"] / (1 - first**count))


@torch.no_grad()
def _move(rate: float, parameter: Tensor, direction: Tensor) -> None:
    """Move one matrix along its orthogonalised direction by as much as AdamW would."""
    matrix = direction.reshape(len(direction), -1)
    update = orthogonalise(matrix).view_as(parameter)
    parameter.add_(update, alpha=-_length(rate, matrix))


def _length(rate: float, matrix: Tensor) -> float:
    """Return the factor of an orthogonal update that gives it the size of AdamW's."""
    length: float = 0.2 * rate * max(matrix.shape) ** 0.5
    return length


@torch.no_grad()
def _move_together(rate: float, parameters: Sequence[Tensor], directions: Sequence[Tensor]) -> None:
    """Move matrices as `_move` does, all of one shape at once: one kernel for many small ones."""
    alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for parameter, direction in zip(parameters, directions, strict=True):
        matrix = direction.reshape(len(direction), -1)
        alike.setdefault(matrix.shape, []).append((parameter, matrix))
    for pairs in alike.values():
        moved, matrices = zip(*pairs, strict=True)
        found = orthogonalise(torch.stack(matrices))
        updates = [update.reshape(p.shape) for update, p in zip(found, moved, strict=True)]
        torch._foreach_add_(list(moved), updates, alpha=-_length(rate, matrices[0]))


def build_optimiser(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the configuration's optimiser for a module's parameters."""
    shared: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimiser == "adamw":
        return torch.optim.AdamW(module.parameters(), lr=config.rate, **shared)
    outer = ("embedding", "conv_in", "conv_out")
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        inner = parameter.ndim >= 2 and not any(part in name for part in outer)
        (matrices if inner else others).append(parameter)
    together = next(module.parameters()).device.type != "cpu"
    return Muon(matrices, others, config.rate, threads=config.threads, together=together, **shared)
