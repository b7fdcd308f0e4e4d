"""Plug-and-Play: the source's self-attention maps and one of its features, in both halves."""

from dataclasses import dataclass

from freeprompt.core import Control, Model, Share, ShareFeature, Sites, Window
from freeprompt.core.params import param
from freeprompt.methods.base import METHODS, Task
from freeprompt.methods.two_branch import TwoBranch


@METHODS.register("pnp")
@dataclass(frozen=True, kw_only=True)
class PnP(TwoBranch):
    """Edit by injecting the source's decoder maps and one convolution feature.

    Like FPE it shares q and k, but only in the decoder, in both halves of guidance, and together
    with the feature of one residual block. All of it comes from the source's conditional row.

    Preserves: layout and much of the shape's detail.  Changes: style, material, kind of object.
    Fails when: the shape must change; the feature holds it firmly.

    Source: Tumanyan et al., CVPR 2023, arXiv:2211.12572; released code (up blocks, 80 % and 50 %).
    """

    feature_share: float = param(
        0.8,
        "Share of the steps that use the source's feature",
        low=0,
        high=1,
        unit="share",
        source="released code",
    )
    share: float = param(
        0.5,
        "Share of the steps that use the source's self-attention",
        low=0,
        high=1,
        unit="share",
        source="released code",
    )
    feature: Sites = param(
        Sites("feature:up.-3.1"), "Which convolution outputs are injected", source="released code"
    )
    sites: Sites = param(
        Sites("self:after.0.5"),
        "Which self-attention layers share; on SD 1 these are layers 9-16",
        source="released code",
    )

    def controls(self, model: Model, task: Task) -> list[Control]:
        window = Window.until(self.share, task.steps)
        late = Window.until(self.feature_share, task.steps)
        return [
            ShareFeature(sites=self.feature, window=late, origin="cond"),
            Share(sites=self.sites, window=window, half="both", origin="cond"),
        ]
