"""Every score there is: what it is called, which way is up, how it is printed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """A column of a table.

    Attributes:
        title: Head of the column.
        help: One sentence.
        higher: Whether more is better.
        digits: Digits after the point.
        factor: What the stored value is multiplied by when shown.
        unit: Unit of what is shown.
    """

    title: str
    help: str
    higher: bool = True
    digits: int = 2
    factor: float = 1.0
    unit: str = ""

    def show(self, value: float) -> str:
        """Print a value."""
        return f"{value * self.factor:.{self.digits}f}"

    @property
    def head(self) -> str:
        """Title with unit and direction."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit} {'↑' if self.higher else '↓'}"


def _share(title: str, help: str) -> Score:
    return Score(title=title, help=help, factor=100, digits=1, unit="%")


TRUTH: dict[str, Score] = {
    "right": _share("right", "Edits that meet every criterion: the headline."),
    "success": _share("edited", "The judge reads every wanted attribute."),
    "kept": _share("kept", "Share of the other attributes that the judge still reads."),
    "layout": Score(
        title="layout",
        help="Overlap (IoU) of the subject with where it should be: of masks, or of boxes where "
        "the subject was exchanged.",
    ),
    "background_psnr": Score(
        title="background", help="PSNR outside every subject.", digits=1, unit="dB"
    ),
    "ideal_psnr": Score(
        title="to the ideal", help="PSNR against the ideal edit.", digits=1, unit="dB"
    ),
    "background_ssim": Score(title="background SSIM", help="SSIM outside every subject.", digits=3),
    "background_lpips": Score(
        title="background LPIPS", help="LPIPS outside every subject.", higher=False, digits=3
    ),
    "ideal_ssim": Score(title="SSIM to the ideal", help="SSIM against the ideal edit.", digits=3),
    "mask_iou": Score(title="mask IoU", help="Overlap of the subject's masks."),
    "box_iou": Score(title="box IoU", help="Overlap of the subject's bounding boxes."),
    "center_shift": Score(
        title="shift", help="Distance of the masks' centres, in frames.", higher=False
    ),
    "size_shift": Score(
        title="size change", help="|log2| of the masks' areas' ratio.", higher=False
    ),
    "color_error": Score(
        title="colour error",
        help="CIE 1976 difference of the colour's name read and wanted.",
        higher=False,
        digits=1,
    ),
}
"""What is scored against the truth of a scene."""

FIELD: dict[str, Score] = {
    "clip": Score(title="CLIP", help="CLIP score of the edit and the target prompt."),
    "clip_edited": Score(
        title="CLIP edited", help="The same with all but the edited region painted black."
    ),
    "clip_direction": Score(title="CDS", help="CLIP directional similarity.", digits=3),
    "structure": Score(
        title="structure",
        help="DINO structure distance, times 1000.",
        higher=False,
        digits=1,
        factor=1000,
        unit="10⁻³",
    ),
    "psnr": Score(title="PSNR", help="Against the source, whole picture.", digits=1, unit="dB"),
    "ssim": Score(title="SSIM", help="Against the source, whole picture.", digits=3),
    "lpips": Score(title="LPIPS", help="Against the source.", higher=False, digits=3),
    "mse": Score(
        title="MSE",
        help="Against the source, times 10⁴.",
        higher=False,
        digits=1,
        factor=1e4,
        unit="10⁻⁴",
    ),
}
"""What the field measures on whole pictures."""

_REGION = {name: FIELD[name] for name in ("psnr", "ssim", "lpips", "mse")}


def _masked(way: str, words: str) -> dict[str, Score]:
    return {
        f"{name}_{way}": Score(
            title=f"{score.title} {way}",
            help=f"Against the source, in the data set's background, {words}.",
            higher=score.higher,
            digits=score.digits,
            factor=score.factor,
            unit=score.unit,
        )
        for name, score in _REGION.items()
    }


MASKED: dict[str, Score] = {
    **_masked("area", "over its own area"),
    **_masked("pie", "over the whole frame, the way of PIE-Bench"),
}
"""What the field measures in the background that a data set marks."""

COST: dict[str, Score] = {
    "sample_forwards": Score(
        title="sample-forwards",
        help="Samples that the denoiser evaluates for one edit, inversion included.",
        higher=False,
        digits=0,
    ),
    "seconds": Score(
        title="seconds", help="Of one edit, on the machine named below.", higher=False
    ),
    "peak_mib": Score(
        title="memory",
        help="Peak of device memory; on a CPU nothing that could be compared.",
        higher=False,
        digits=0,
        unit="MiB",
    ),
}
"""What an edit costs."""

SCORES: dict[str, Score] = {**TRUTH, **FIELD, **MASKED, **COST}
