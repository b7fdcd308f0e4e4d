"""A cheap identity of a model's weights, so that provenance can tell two checkpoints apart."""

import hashlib
from typing import Any

import torch

from freeprompt.models.offload import weights

SAMPLES = 64


def fingerprint(pipe: Any) -> str:
    """Return 16 hex digits over all parameter names, shapes and a sample of their values.

    Adapters that are loaded into the model (LoRA) change it; device and dtype do not by themselves,
    but rounding to another dtype does. Reading 64 values a tensor, it costs milliseconds.

    Args:
        pipe: A diffusers pipeline.
    """
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, part, None)
        if module is None:
            continue
        # versions of transformers differ in whether names of its modules begin so
        named = ((name.removeprefix("text_model."), value) for name, value in weights(module))
        for name, value in sorted(named, key=lambda pair: pair[0]):
            digest.update(f"{part}.{name}{tuple(value.shape)}".encode())
            flat = value.detach().flatten()
            stride = max(1, -(-len(flat) // SAMPLES))  # rounded up: the sample reaches the end
            sample = flat[::stride]
            # first to the CPU: not every device knows float64
            digest.update(sample.cpu().to(torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]
