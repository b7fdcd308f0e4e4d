"""How many targets of an image are made at a time: as many as fit."""

import torch

from freeprompt.api import Editor
from freeprompt.models.memory import pass_bytes, weight_bytes

ON_CPU = 4  # there a larger batch saves nothing, and memory is not ours alone
LARGEST = 64
SHARE = 0.8  # of the device's memory that a batch is planned to fill
ROWS = 2  # batch rows of a target and of the source: both halves


def found_batch_size(editor: Editor) -> int:
    """Find the batch size from the size of the device's memory; on a CPU it is a constant.

    All of the device counts, not what is free just now, and the answer is a power of two: equal
    cards answer alike, so that a resumed run makes the batches it would have made.
    """
    model = editor.model
    if model.device.type != "cuda":
        return ON_CPU
    total = torch.cuda.get_device_properties(model.device).total_memory
    unet = model.pipe.unet
    height, width = model.latent_shape(model.native_size, model.native_size)[-2:]
    row = pass_bytes(unet, 1, height, width, model.dtype)
    rows = int(SHARE * (total - weight_bytes(unet)) / row)
    return power_of_two((rows - ROWS) // ROWS)


def power_of_two(count: int) -> int:
    """Return the largest power of two up to `count` and `LARGEST`, at least 1."""
    return 1 << (max(1, min(count, LARGEST)).bit_length() - 1)
