"""Free-Prompt-Editing: the source's self-attention maps, the target's values."""

from dataclasses import dataclass

from freeprompt.core import Control, Model, Record, Share, Sites, Tape, Window, step_count
from freeprompt.core.params import param
from freeprompt.errors import ConfigError
from freeprompt.methods.base import METHODS, Task
from freeprompt.methods.two_branch import TwoBranch


@METHODS.register("fpe")
@dataclass(frozen=True, kw_only=True)
class FPE(TwoBranch):
    """Edit with nothing but a target prompt, by sharing self-attention maps.

    For the first part of the steps and below the finest grid, the target's self-attention becomes
    softmax(Q_src K_src^T) V_tgt. Cross-attention is left alone: its maps carry what the words
    mean, while self-attention maps carry layout. Swapping q and k before the fused kernel *is*
    swapping maps, so no map is ever in memory.

    Preserves: layout, pose, silhouette.  Changes: colour, material, kind of object, style.
    Fails when: the edit needs another shape or pose, or something added or removed.

    Source: Liu et al., CVPR 2024, arXiv:2403.03431, algorithms 1 and 2; the defaults are those of
    the released code, which shares maps of at most 32x32 tokens at 512 pixels. That rule is kept
    relative to the model ("below the finest grid"), so it holds at every resolution.
    """

    share: float = param(
        0.8,
        "Share of the steps, from the noisiest on, that use the source's self-attention",
        low=0,
        high=1,
        unit="share",
        source="released code, all four notebooks",
    )
    start: float = param(
        0.0,
        "Share of the steps before which nothing is shared yet; the target begins on its own",
        low=0,
        high=1,
        unit="share",
        source="ours",
    )
    sites: Sites = param(
        Sites("self:below-top"),
        "Which attention layers share; 'none', 'self:all' and 'self:3-13' are other choices",
        source="released code: maps of at most 32x32 tokens",
    )
    half: str = param(
        "cond",
        "Which half of the target's batch rows take the source's maps",
        choices=("cond", "uncond", "both"),
        source="released code",
    )
    record: str = param(
        "none",
        "Where a real image's maps come from: 'none' runs the source beside the target, 'inversion'"
        " tapes them while inverting, an approximation that saves a fifth of the work",
        choices=("none", "inversion"),
        source="ours",
    )

    untuned = ("record",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start and self.start >= self.share:
            raise ConfigError(
                f"fpe would share nothing: it begins at start={self.start:g} and ends at "
                f"share={self.share:g} of the steps. Give a start below the share."
            )

    @property
    def reads_uncond(self) -> bool:
        return self.half != "cond"

    def controls(self, model: Model, task: Task) -> list[Control]:
        window = self._window(task.steps)
        return [Share(sites=self.sites, window=window, half=self.half, tape=task.tape)]  # type: ignore[arg-type]

    def while_inverting(self, tape: Tape, steps: int) -> list[Control]:
        if self.record == "none":
            return []
        return [Record(sites=self.sites, window=self._window(steps), tape=tape)]

    def _window(self, steps: int) -> Window:
        return Window(step_count(steps, self.start), step_count(steps, self.share))
