"""Run by test_seam.py in a process of its own: the shape checks of the test suite do not trace."""

import torch
from diffusers import UNet2DConditionModel

from freeprompt.core import PAIR, Share, Sites, Text, Window
from freeprompt.models import attach
from freeprompt.models.walk import unet_sites

LATENT = (8, 8)


def small_unet() -> UNet2DConditionModel:
    """Two levels instead of four: tracing time is what this test costs."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    ).eval()


@torch.no_grad()
def main() -> None:
    """Edit through a compiled network, traced whole; steps must not recompile it."""
    unet = small_unet()
    sites = unet_sites(unet)
    x = torch.randn(1, 4, *LATENT).expand(4, -1, -1, -1)
    text = Text(torch.randn(4, 7, 16)).states
    control = Share(sites=Sites("self:below-top"), window=Window(0, 10))

    def answers(network: torch.nn.Module, steps: range) -> tuple[list[torch.Tensor], int]:
        out = []
        with attach(network, sites, [control], PAIR, "small") as run:
            for step in steps:
                with run.at(step, LATENT):
                    out.append(network(x, torch.tensor(501), text).sample)
        return out, len(run.fired)

    graphs = torch._dynamo.utils.counters["stats"]
    plain = unet(x, torch.tensor(501), text).sample
    expected, _ = answers(unet, range(1))
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    edited, fired = answers(compiled, range(4))
    assert graphs["unique_graphs"] == 1, graphs
    assert fired == 4 * len(control.sites.select(sites)), fired
    for answer in edited:
        assert torch.allclose(answer, expected[0], atol=1e-6)
    assert not torch.allclose(expected[0], plain, atol=1e-4)
    (*_, after), _ = answers(compiled, range(9, 11))  # the window ends at 10
    assert torch.allclose(after, plain, atol=1e-6)
    assert graphs["unique_graphs"] == 2, graphs
    print("compiled and eager agree")


if __name__ == "__main__":
    main()
