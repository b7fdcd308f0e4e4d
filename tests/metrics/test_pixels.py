"""MSE, PSNR and SSIM against scikit-image and against plain loops."""

import math

import numpy as np
import pytest
from PIL import Image
from skimage import metrics as skimage
from tests.metrics.samples import inside_out, noisy, photo, unit

from freeprompt.errors import ConfigError, ImageError
from freeprompt.images import psnr as psnr_of_images
from freeprompt.metrics import SSIM_VARIANTS, mse, psnr, ssim

SKIMAGE = {
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
    "uniform": {},
}
MEASURES = [mse, psnr, ssim]


def reference_ssim(a, b, variant, **options):
    return skimage.structural_similarity(
        unit(a), unit(b), data_range=1.0, channel_axis=2, **SKIMAGE[variant], **options
    )


def test_mse_and_psnr_are_scikit_images(pair):
    a, b = pair
    assert mse(a, b) == pytest.approx(skimage.mean_squared_error(unit(a), unit(b)), rel=1e-12)
    expected = skimage.peak_signal_noise_ratio(unit(a), unit(b), data_range=1.0)
    assert psnr(a, b) == pytest.approx(expected, rel=1e-12)
    assert psnr(a, b) == pytest.approx(psnr_of_images(a, b), rel=1e-12)


@pytest.mark.parametrize("variant", SKIMAGE)
@pytest.mark.parametrize("strength", [3, 25, 90])
def test_ssim_is_scikit_images(variant, strength):
    a = photo()
    b = noisy(a, strength)
    expected = reference_ssim(a, b, variant)
    assert ssim(a, b, variant=variant) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("strength", [3, 25, 90])
def test_ssim_reflected_is_scikit_images_of_larger_pictures(strength):
    """What torchmetrics does now: windows at every pixel, the picture reflected at its edges."""
    a = photo()
    b = noisy(a, strength)
    larger = [
        Image.fromarray(np.pad(np.asarray(p), ((5, 5), (5, 5), (0, 0)), mode="reflect"))
        for p in (a, b)
    ]
    expected = reference_ssim(*larger, "gaussian")
    assert ssim(a, b, variant="reflected") == pytest.approx(expected, abs=1e-9)
    assert ssim(a, b, variant="reflected") != pytest.approx(ssim(a, b), abs=1e-3)


def test_every_variant_of_ssim_is_compared_with_something():
    assert set(SSIM_VARIANTS) == {*SKIMAGE, "reflected"}


def test_mse_of_a_region(pair, region):
    a, b = pair
    chosen = (unit(a)[region] - unit(b)[region]) ** 2
    assert mse(a, b, region) == pytest.approx(chosen.mean(), rel=1e-12)
    assert mse(a, b, region, way="pie") == pytest.approx(chosen.sum() / unit(a).size, rel=1e-12)


def slow_ssim(a, b, region, sigma=1.5, half=5):
    """Every window by itself, only over the pixels of the region."""
    offsets = np.arange(-half, half + 1)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    values = []
    height, width = region.shape
    for y in range(half, height - half):
        for x in range(half, width - half):
            if not region[y, x]:
                continue
            part = np.s_[y - half : y + half + 1, x - half : x + half + 1]
            weights = (kernel * region[part])[..., None]
            p, q = a[part], b[part]

            def mean(v, weights=weights):
                return (v * weights).sum((0, 1)) / weights.sum()

            mp, mq = mean(p), mean(q)
            vp, vq, both = mean(p * p) - mp**2, mean(q * q) - mq**2, mean(p * q) - mp * mq
            above = (2 * mp * mq + 1e-4) * (2 * both + 9e-4)
            values.append((above / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))).mean())
    return np.mean(values)


def test_ssim_of_a_region_by_hand(pair, region):
    a, b = pair
    assert ssim(a, b, region) == pytest.approx(slow_ssim(unit(a), unit(b), region), abs=1e-9)


def test_ssim_the_way_of_pie_is_that_of_blackened_pictures(pair, region):
    a, b = (inside_out(picture, region, 0) for picture in pair)
    assert ssim(*pair, region, way="pie") == pytest.approx(reference_ssim(a, b, "gaussian"))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("way", ["area", "pie"])
def test_nothing_outside_has_a_say(measure, way, pair, region):
    a, b = pair
    changed = inside_out(b, region)
    assert measure(a, changed, region, way=way) == measure(a, b, region, way=way)
    assert measure(a, changed) != measure(a, b)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_full_region_is_no_region(measure, pair, region):
    full = np.ones_like(region)
    for way in ("area", "pie"):
        assert measure(*pair, full, way=way) == pytest.approx(measure(*pair), rel=1e-12)


def test_the_way_of_pie_flatters_in_proportion_to_the_hole(pair, region):
    """The trap: the same error in a smaller region looks like a better picture."""
    assert psnr(*pair, region, way="pie") > psnr(*pair, region) + 3
    assert ssim(*pair, region, way="pie") > ssim(*pair, region)
    share = region.mean()
    assert mse(*pair, region, way="pie") == pytest.approx(mse(*pair, region) * share)


def test_equal_pictures(pair, region):
    a, _ = pair
    assert mse(a, a) == 0
    assert psnr(a, a, region) == math.inf
    assert ssim(a, a, region) == pytest.approx(1)


def test_an_empty_region_has_no_measure(pair, region):
    nothing = np.zeros_like(region)
    assert all(math.isnan(measure(*pair, nothing)) for measure in MEASURES)
    assert mse(*pair, nothing, way="pie") == 0


@pytest.mark.parametrize("measure", MEASURES)
def test_refusals(measure, pair, region):
    a, b = pair
    with pytest.raises(ImageError, match="64 × 48 and 32 × 48"):
        measure(a, b.crop((0, 0, 32, 48)))
    with pytest.raises(ImageError, match=r"\(64, 48\).*\(48, 64\)"):
        measure(a, b, region.T)
    with pytest.raises(ConfigError, match="did you mean 'area'"):
        measure(a, b, region, way="areas")


def test_ssim_refuses_what_it_cannot_do(pair):
    a, b = pair
    with pytest.raises(ConfigError, match="gaussian, reflected, uniform"):
        ssim(a, b, variant="box")
    with pytest.raises(ImageError, match="8 × 48, smaller than the window"):
        ssim(a.crop((0, 0, 8, 48)), b.crop((0, 0, 8, 48)))
