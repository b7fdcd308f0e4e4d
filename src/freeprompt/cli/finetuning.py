"""The commands of `freeprompt finetune`; read when one of them is asked for."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freeprompt.cli import loading, show
from freeprompt.cli.parameters import has_parameters
from freeprompt.finetune.settings import EmbeddingTraining, LoraTraining

if TYPE_CHECKING:
    from freeprompt.core.loop import Callback
    from freeprompt.finetune import Trained

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

PicturesFolder = Annotated[Path, typer.Argument(help="Folder with pictures of the subject.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")]
ModelName = Annotated[str, typer.Option(help="Catalogue name, folder, file or Hub id.")]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(help="File to go on from, if it is there, and to leave the state in."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DType = Annotated[str, typer.Option(help="float32 or bfloat16; float16 loses small steps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
@loading.loads_model
@has_parameters(LoraTraining)
def lora(
    pictures: PicturesFolder,
    out: Out = Path("subject.safetensors"),
    model: ModelName = "emoji-sd",
    class_pictures: Annotated[
        Path | None,
        typer.Option(help="Folder with pictures of others of its kind, instead of drawing them."),
    ] = None,
    checkpoint: CheckpointFile = None,
    device: Device = "auto",
    dtype: DType = "float32",
    as_json: AsJson = False,
    *,
    settings: LoraTraining,
) -> None:
    """Train a LoRA, so that a rare word (sks) means the subject: DreamBooth."""
    from freeprompt.finetune import train_lora
    from freeprompt.finetune.files import check_out

    settings.check()
    check_out(out)

    def train(editor: Any, callback: "Callback") -> "Trained":
        return train_lora(
            editor.model,
            pictures,
            out,
            settings,
            class_pictures=class_pictures,
            checkpoint=checkpoint,
            callback=callback,
        )

    _report(train, model, device, dtype, as_json, f"--lora {out}")


@app.command()
@loading.loads_model
@has_parameters(EmbeddingTraining)
def embedding(
    pictures: PicturesFolder,
    out: Out = Path("subject.safetensors"),
    model: ModelName = "emoji-sd",
    checkpoint: CheckpointFile = None,
    device: Device = "auto",
    dtype: DType = "float32",
    as_json: AsJson = False,
    *,
    settings: EmbeddingTraining,
) -> None:
    """Find vectors for a new word that means the subject: textual inversion."""
    from freeprompt.finetune import train_embedding
    from freeprompt.finetune.files import check_out

    settings.check()
    check_out(out)

    def train(editor: Any, callback: "Callback") -> "Trained":
        return train_embedding(
            editor.model, pictures, out, settings, checkpoint=checkpoint, callback=callback
        )

    _report(train, model, device, dtype, as_json, f"--embedding {out}")


def _report(train: Any, model: str, device: str, dtype: str, as_json: bool, use: str) -> None:
    """Load a model, train under a progress bar, and say what came of it."""
    editor = loading.load(model, device=device, dtype=dtype)
    began = time.perf_counter()
    with show.progress(not as_json) as callback:
        done: Trained = train(editor, callback)
    seconds = time.perf_counter() - began
    if as_json:
        show.print_json(
            {
                "file": str(done.file),
                "sha256": done.sha256,
                "steps": done.steps,
                "sample_forwards": done.sample_forwards,
                "loss_before": done.loss_before,
                "loss_after": done.loss_after,
                "seconds": round(seconds, 3),
            }
        )
        return
    typer.echo(
        f"{done.steps} steps, {done.sample_forwards} sample-forwards and as many backward passes "
        f"as steps need, {seconds:.0f} s; loss {done.loss_before:.3f} at first, "
        f"{done.loss_after:.3f} at the end"
    )
    typer.echo(f"  {done.file}    edit with {use}")
