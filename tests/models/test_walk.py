"""Sites of real UNets, in execution order, against the table of Stable Diffusion 1.5."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from freeprompt.core import Sites
from freeprompt.models.tiny import tiny_sd
from freeprompt.models.walk import unet_sites

# number, module, tokens at a 64x64 latent; measured with hooks, not read off diffusers' own order
SD15_SELF = [
    (1, "down_blocks.0.attentions.0", 4096),
    (2, "down_blocks.0.attentions.1", 4096),
    (3, "down_blocks.1.attentions.0", 1024),
    (4, "down_blocks.1.attentions.1", 1024),
    (5, "down_blocks.2.attentions.0", 256),
    (6, "down_blocks.2.attentions.1", 256),
    (7, "mid_block.attentions.0", 64),
    (8, "up_blocks.1.attentions.0", 256),
    (9, "up_blocks.1.attentions.1", 256),
    (10, "up_blocks.1.attentions.2", 256),
    (11, "up_blocks.2.attentions.0", 1024),
    (12, "up_blocks.2.attentions.1", 1024),
    (13, "up_blocks.2.attentions.2", 1024),
    (14, "up_blocks.3.attentions.0", 4096),
    (15, "up_blocks.3.attentions.1", 4096),
    (16, "up_blocks.3.attentions.2", 4096),
]
SD_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


def meta_unet(**config):
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@pytest.fixture(scope="module")
def sd15():
    return meta_unet(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=8,
        cross_attention_dim=768,
        **SD_BLOCKS,
    )


@pytest.fixture(scope="module")
def tiny():
    return tiny_sd().unet


@pytest.fixture(params=["sd15", "tiny"])
def unet(request):
    return request.getfixturevalue(request.param)


def of_kind(sites, kind):
    return [site for site in sites if site.kind == kind]


@pytest.mark.parametrize(("kind", "module"), [("self", "attn1"), ("cross", "attn2")])
def test_the_sixteen_layers_of_stable_diffusion(unet, kind, module):
    found = of_kind(unet_sites(unet), kind)
    tokens = [height * width for height, width in (site.grid(64, 64) for site in found)]
    assert [(site.index, site.path, count) for site, count in zip(found, tokens, strict=True)] == [
        (i, f"{path}.transformer_blocks.0.{module}", n) for i, path, n in SD15_SELF
    ]


def test_the_middle_is_layer_seven(unet):
    """diffusers registers it last; counting its dictionary would call it 16."""
    seventh = of_kind(unet_sites(unet), "self")[6]
    assert (seventh.index, seventh.block, seventh.scale) == (7, "mid.0", 8)
    last = [path for path in unet.attn_processors if ".attn1." in path][-1]
    assert last == f"{seventh.path}.processor"


def test_the_papers_layers_are_those_below_the_top(unet):
    """Eleven layers, by three names: the paper's 4-14 from the output, ours, and the rule."""
    sites = unet_sites(unet)
    paper, ours, rule = (
        Sites(text).select(sites) for text in ("self:paper", "self:3-13", "self:below-top")
    )
    assert paper == ours == rule and len(paper) == 11
    assert {site.path.split(".transformer")[0] for site in paper} == {
        path for _, path, tokens in SD15_SELF if tokens <= 32**2
    }


def test_paths_lead_to_the_modules(unet):
    for site in unet_sites(unet):
        module = unet.get_submodule(site.path)
        if site.kind == "feature":
            assert isinstance(module, torch.nn.Conv2d) and site.path.endswith("conv2")
        else:
            assert module.is_cross_attention == (site.kind == "cross")
            assert f"{site.path}.processor" in unet.attn_processors


def test_every_attention_and_every_block_of_convolutions_is_a_site(unet):
    sites = unet_sites(unet)
    attention = {f"{site.path}.processor" for site in sites if site.kind != "feature"}
    assert attention == set(unet.attn_processors)
    resnets = {name for name, _ in unet.named_modules() if name.endswith("conv2")}
    assert {site.path for site in of_kind(sites, "feature")} == resnets and len(resnets) == 22


def test_names_and_numbers_are_unique(unet):
    sites = unet_sites(unet)
    assert len({site.name for site in sites}) == len(sites)
    for kind in ("self", "cross", "feature"):
        numbers = [site.index for site in of_kind(sites, kind)]
        assert numbers == [*range(1, len(numbers) + 1)]


def passed(unet, height, width):
    """(path, tokens or grid) of every module as a real forward passes it."""
    seen, handles = [], []
    for site in unet_sites(unet):
        module = unet.get_submodule(site.path)

        def before(module, args, kwargs, path=site.path):
            x = args[0] if args else kwargs["hidden_states"]
            seen.append((path, tuple(x.shape[-2:]) if x.ndim == 4 else x.shape[1]))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        with torch.no_grad():
            unet(
                torch.zeros(1, 4, height, width),
                torch.tensor(1),
                encoder_hidden_states=torch.zeros(1, 77, 32),
            )
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_order_and_grids_are_those_of_a_real_forward(tiny):
    """On 136x200 pixels (17x25 cells), where every halving rounds up."""
    expected = []
    for site in unet_sites(tiny):
        height, width = site.grid(17, 25)
        expected.append((site.path, (height, width) if site.kind == "feature" else height * width))
    assert passed(tiny, 17, 25) == expected
    assert {n for _, n in expected if isinstance(n, int)} == {425, 117, 35, 12}


def test_a_network_without_attention_at_the_finest_grid():
    """SDXL's anatomy: scales count from the finest grid *with* attention, grids from the latent."""
    unet = meta_unet(
        sample_size=32,
        block_out_channels=(16, 16, 16),
        norm_num_groups=8,
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 3),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    sites = of_kind(unet_sites(unet), "self")
    assert {(site.scale, site.halvings) for site in sites} == {(1, 1), (2, 2)}
    assert [site.block for site in sites[:4]] == [
        "down.1.0.0",
        "down.1.0.1",
        "down.1.1.0",
        "down.1.1.1",
    ]
    assert len(sites) == 2 * 2 + 2 * 3 + 3 + 3 * 3 + 3 * 2
    chosen = Sites("self:down.1.1").select(sites)
    assert [site.block for site in chosen] == ["down.1.1.0", "down.1.1.1"]
    with_conv = unet_sites(unet)
    assert min(site.scale for site in with_conv) == 1


def test_a_network_without_a_middle():
    unet = meta_unet(
        sample_size=8,
        block_out_channels=(16, 16),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    blocks = [site.block for site in of_kind(unet_sites(unet), "self")]
    assert blocks == ["down.0.0", "up.1.0", "up.1.1"]


def test_a_network_without_attention_has_features_only():
    unet = meta_unet(
        sample_size=8,
        block_out_channels=(16, 16),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    assert {site.kind for site in unet_sites(unet)} == {"feature"}
