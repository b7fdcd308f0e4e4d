"""Fitting a model into the memory there is: what may be chosen, and putting it into effect."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from freeprompt.core.params import Parameters, param
from freeprompt.errors import ConfigError
from freeprompt.models.offload import ACCELERATORS, offload

COMPILES = "2.13"  # the first torch that traces an edit, of those tried: 2.6 cannot


@dataclass(frozen=True, kw_only=True)
class Memory(Parameters):
    """How a model is fitted into the memory there is. The flags of the commands follow from it.

    Slicing of the VAE is no choice: pictures are always encoded and decoded one at a time.
    """

    offload: str = param(
        "none",
        "What waits in the machine's memory instead of the accelerator's: 'model' whole parts "
        "until they are used, 'sequential' every single layer, slow and smallest",
        choices=("none", "model", "sequential"),
    )
    at_once: int = param(
        0,
        "Targets denoised side by side; 0 for as many as are estimated to fit",
        low=0,
        unit="targets",
    )
    attention_mib: int = param(
        0,
        "Scores that attention may hold at a time where torch has no fused kernel for it; 0 for "
        "all of them",
        low=0,
        unit="MiB",
    )
    vae_tiling: bool = param(
        False, "Decode and encode large pictures in overlapping tiles, which can show faintly"
    )
    channels_last: bool = param(
        False, "Keep convolution weights with channels last; measure whether that is faster"
    )
    compile: bool = param(
        False, "Compile the network with torch.compile: slow to begin with, then faster"
    )
    step_down: bool = param(
        True, "When memory runs out, try again with less at a time, and say so in the notes"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.offload != "none":
            raise ConfigError(
                f"compile and offload={self.offload!r} exclude each other: compiled code cannot "
                "follow weights that come and go. Choose one."
            )
        if self.compile and torch.__version__ < COMPILES:
            raise ConfigError(
                f"compile needs torch {COMPILES} or newer; this is "
                f"{torch.__version__}, which may not be able to trace an edit. Leave it out."
            )

    @property
    def chosen(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON types."""
        usual = type(self)().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    @property
    def changes_pipe(self) -> tuple[str, ...]:
        """Names of what was chosen that changes the pipeline itself, not only an edit with it."""
        own = ("offload", "vae_tiling", "channels_last", "compile")
        return tuple(name for name in own if name in self.chosen)

    def leaving_pipe(self) -> "Memory":
        """Return it, for a pipeline that is to stay as it is.

        Raises:
            ConfigError: if something was chosen that changes the pipeline.
        """
        if self.changes_pipe:
            raise ConfigError(
                f"Memory({self.changes_pipe[0]}={self.chosen[self.changes_pipe[0]]!r}) changes the "
                "pipeline, and this one is yours. Use diffusers' own switch (such as "
                "pipe.enable_model_cpu_offload()), or let freeprompt.load() open the model."
            )
        return self


def place(pipe: Any, memory: Memory, device: torch.device) -> None:
    """Bring a pipeline to a device, in the way that was chosen, for good.

    Args:
        pipe: A pipeline on the CPU.
        memory: What was chosen.
        device: Where it is to compute.

    Raises:
        ConfigError: if weights are to be kept off an accelerator that there is none of.
        MissingDependency: if that needs accelerate, which is not installed.
        RuntimeError: if the device has too little memory, or refuses for another reason.
    """
    if memory.offload != "none" and device.type not in ACCELERATORS:
        raise ConfigError(
            f"offload={memory.offload!r} keeps weights off an accelerator, and the model runs on "
            f"{device}. Leave it out; on a CPU, dtype='bfloat16' halves what weights take."
        )
    if memory.channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if memory.vae_tiling:
        pipe.vae.enable_tiling()
    if memory.offload == "none":
        pipe.to(device)
    else:
        offload(pipe, memory.offload, device)
    if memory.compile:
        # in place, so that it stays the same module; sizes change too rarely to be symbols
        pipe.unet.compile(dynamic=False)


PASS = 26  # times the hidden state at the finest grid: see `pass_bytes`


def pass_bytes(unet: Any, rows: int, height: int, width: int, dtype: torch.dtype) -> int:
    """Estimate what one pass of a UNet takes beyond its weights, in bytes, with fused attention.

    The peak lies at the finest grid and grows with rows, cells, channels there and bytes a number,
    and with nothing else. Measured, it is 25 to 26 times that product for UNets of Stable Diffusion
    1 and 2 at any size, and 16 times for SDXL's, which has no attention there.

    Args:
        unet: The network.
        rows: Batch rows.
        height: Of the latent.
        width: Likewise.
        dtype: What it computes in.
    """
    channels = int(unet.config.block_out_channels[0])
    return PASS * rows * channels * height * width * dtype.itemsize


def weight_bytes(module: nn.Module) -> int:
    """Return what the parameters and buffers of a module take, wherever they are."""
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be taken on a device, or None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return _available() if device.type == "cpu" else None


def _available() -> int | None:
    """Return what Linux says that new work can take without swapping; elsewhere None."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that a device, or the machine, has no more memory."""
    said = str(error)
    marks = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
    told = isinstance(error, RuntimeError) and any(mark in said for mark in marks)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


def release(device: torch.device) -> None:
    """Give back what torch holds in reserve, after the tensors that filled it have gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
