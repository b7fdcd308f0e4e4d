"""Checking a folder in diffusers layout: everything there, and everything of the right shape."""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from freeprompt.errors import ModelError
from freeprompt.models.single import PARTS, empty_part
from freeprompt.models.stored import PICKLED, Shape, open_weights

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
OLD_VAE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def check_folder(folder: Path, variant: str | None, allow_pickle: bool) -> None:
    """Check a saved pipeline before anything is allocated.

    The libraries make up what is missing (random weights, a tokenizer without words) and allocate
    whatever a config asks for.

    Args:
        folder: What `save_pretrained` wrote, or the local copy of a Hub id.
        variant: Kind of weight files that is wanted.
        allow_pickle: Whether weights may be pickles.

    Raises:
        ModelError: saying what is missing, or differs.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise ModelError("model_index.json is not the index of a pipeline")
    has_variant = variant is None
    for part, entry in PARTS.items():
        if tuple(index.get(part) or ()) != entry:
            continue  # of another kind, or none: adapting the pipeline will tell
        files, of_variant = weight_files(folder / part, part, variant)
        has_variant |= of_variant
        if not files:
            _refuse_no_files(folder / part, part, variant)
        if files[0].suffix == ".safetensors" or not allow_pickle:
            check_shapes(part, empty_part(folder, part), shapes_of(files))
    if not has_variant:
        raise ModelError(
            f"it has no weights of variant {variant!r}. There are: {_variants(folder)}. Leave "
            "--variant (variant=) out for the plain ones"
        )
    for part in ("tokenizer", "tokenizer_2"):
        if index.get(part, [None])[0] is not None:
            _check_words(folder / part, part)


def check_filled(pipe: Any, folder: Path, variant: str | None) -> None:
    """Check that text encoders were filled from their files.

    Their weights have two sets of names, and a transformers that knows one of them alone makes up
    what it does not find.

    Args:
        pipe: What was loaded.
        folder: From where.
        variant: Kind of weight files that was wanted.

    Raises:
        ModelError: naming the part that has other words than its file.
    """
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part, None)
        files = [] if encoder is None else weight_files(folder / part, part, variant)[0]
        for path in files:
            if path.suffix == ".safetensors" and not _has_words(encoder, path):
                raise ModelError(
                    f"transformers {version('transformers')} does not take the weights of {part}, "
                    f"whose names in {path.name} are not those it looks for, and would go on with "
                    "random ones. Upgrade transformers"
                )


def _has_words(encoder: Any, path: Path) -> bool:
    """Tell whether the first words of an encoder are those in a file, if any are there."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no dict
            if name.endswith("token_embedding.weight"):
                stored = file.get_slice(name)[:8]
                words = encoder.get_input_embeddings().weight[:8].detach()
                return torch.equal(stored.to(words.dtype), words.cpu())
    return True


def weight_files(folder: Path, part: str, variant: str | None) -> tuple[list[Path], bool]:
    """Return the files that hold a part's weights, and whether they are of the variant.

    Safetensors come before pickles; where a part has no files of the variant, the plain ones count.
    """
    for suffix in ("safetensors", "bin"):
        stem = STEMS.get(part, "pytorch_model" if suffix == "bin" else "model")
        plain = rf"{stem}(-\d+-of-\d+)?\.{suffix}"
        kinds = [(plain, False)]
        if variant is not None:
            name = re.escape(variant)
            shards = rf"(\.{name}(-\d+-of-\d+)?|-\d+-of-\d+\.{name})"
            kinds.insert(0, (rf"{stem}{shards}\.{suffix}", True))
        for pattern, special in kinds:
            files = [path for path in _files(folder) if re.fullmatch(pattern, path.name)]
            if files:
                return files, special
    return [], False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def _variants(folder: Path) -> str:
    found = {"the plain one"} if weight_files(folder / "unet", "unet", None)[0] else set()
    names = [path.name for path in _files(folder / "unet")]
    kinds = {
        m[1] for m in (re.search(r"model\.([\w]+)(-\d.*)?\.safetensors", n) for n in names) if m
    }
    return ", ".join([*sorted(found), *sorted(kinds)]) or "none"


def _refuse_no_files(folder: Path, part: str, variant: str | None) -> None:
    there = ", ".join(path.name for path in _files(folder)) or "nothing"
    raise ModelError(
        f"the folder {part} has no weights"
        + (f" of variant {variant!r}, nor plain ones" if variant else "")
        + f". In it: {there}. A variant must be named with --variant (variant=)"
    )


def shapes_of(files: list[Path]) -> dict[str, Shape]:
    """Return the shapes of all weights in some files."""
    shapes: dict[str, Shape] = {}
    for path in files:
        if path.suffix != ".safetensors":
            raise ModelError(
                f"{path.name} is a pickle, and reading one can run any code that its maker put in. "
                f"Get the safetensors of the same model; or, if you trust it, {PICKLED}, which "
                "reads its tensors alone"
            )
        shapes |= dict(open_weights(path).shapes)
    return shapes


def check_shapes(part: str, empty: Any, shapes: dict[str, Shape]) -> None:
    """Check that the weights of a part are those that its config asks for.

    Raises:
        ModelError: naming one that is missing, or has another shape.
    """
    has = {_modern(part, name): shape for name, shape in shapes.items()}
    wanted = {_modern(part, name): tuple(value.shape) for name, value in empty.named_parameters()}
    lost = sorted(name for name in wanted if name not in has)
    if lost:
        raise ModelError(f"it lacks {len(lost)} weights of {part}, such as {lost[0]}")
    for name, shape in wanted.items():
        if _linear(has[name]) != _linear(shape):
            raise ModelError(
                f"{name} of {part} has the shape {list(has[name])}, and its config asks for "
                f"{list(shape)}"
            )


def _modern(part: str, name: str) -> str:
    """Return the name that today's libraries give a weight."""
    if part != "vae":
        return name.removeprefix("text_model.")
    owner, _, kind = name.rpartition(".")
    before, _, last = owner.rpartition(".")
    return f"{before}.{OLD_VAE[last]}.{kind}" if last in OLD_VAE else name


def _linear(shape: Shape) -> Shape:
    """Return a shape without the ends of a 1x1 convolution."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _check_words(folder: Path, part: str) -> None:
    """Check that a tokenizer has a vocabulary: without one, transformers makes up an empty one."""
    files: list[Any] = [folder / "tokenizer.json", folder / "vocab.json"]
    if not any(path.is_file() and path.stat().st_size > 1000 for path in files):
        raise ModelError(f"it lacks the vocabulary of {part} (tokenizer.json, or vocab.json)")
