"""CLIP, LPIPS and structure distance on tiny random networks, against formulas written out."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.metrics.samples import inside_out, noisy, photo
from torch.nn import functional

from freeprompt.errors import ConfigError, ImageError, ModelError
from freeprompt.metrics import LPIPS, Clip, Structure, find_weights
from freeprompt.metrics.clip import blackened
from freeprompt.models.vision import load_clip, load_vit

SOURCE, TARGET = "a red dog", "a blue cat in the park"


@pytest.fixture(scope="module")
def clip(clip_folder):
    return Clip(*load_clip(clip_folder))


def embedded(model, tokenizer, picture, prompt):
    """Picture and prompt through the two towers and their projections, by hand."""
    pixels = np.asarray(picture.resize((43, 32), Image.Resampling.BICUBIC), float) / 255
    pixels = torch.tensor(pixels[:, 5:37]).float()
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels = ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)[None]
    image = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    text = model.text_projection(model.text_model(ids).pooler_output)[0]
    return image / image.norm(), text / text.norm()


def test_clip_score_by_hand(clip_folder, clip):
    image, text = embedded(*load_clip(clip_folder), photo(86, 64), TARGET)
    expected = 100 * max(0.0, float(image @ text))
    assert expected > 0
    assert clip.score(photo(86, 64), TARGET) == pytest.approx(expected, abs=1e-3)


def test_clip_resizes_by_the_ratio_of_whole_numbers(clip) -> None:
    """98 x 49 becomes 64 x 32; by a rounded ratio of 32 / 49 it would be 63 wide."""
    picture = photo(98, 49)
    small = picture.resize((64, 32), Image.Resampling.BICUBIC)
    assert clip.score(picture, TARGET) == clip.score(small, TARGET)


def test_clip_direction_by_hand(clip_folder, clip):
    tower = load_clip(clip_folder)
    a, b = photo(86, 64), photo(86, 64, seed=5)
    (first, said), (second, meant) = embedded(*tower, a, SOURCE), embedded(*tower, b, TARGET)
    expected = functional.cosine_similarity(second - first, meant - said, dim=0)
    assert clip.direction(a, b, SOURCE, TARGET) == pytest.approx(float(expected), abs=1e-4)


def test_clip_direction_of_no_change_is_no_number(clip):
    a, b = photo(), photo(seed=5)
    assert math.isnan(clip.direction(a, a, SOURCE, TARGET))
    assert math.isnan(clip.direction(a, b, SOURCE, SOURCE))


def test_clip_reads_outputs_of_transformers_4(clip_folder):
    """There, the two functions return the projected tensor itself."""
    model, tokenizer = load_clip(clip_folder)
    expected = Clip(model, tokenizer).score(photo(), TARGET)

    class Four:
        config, device = model.config, model.device

        def eval(self):
            return self

        def get_image_features(self, pixel_values):
            return model.visual_projection(model.vision_model(pixel_values).pooler_output)

        def get_text_features(self, input_ids, attention_mask):
            states = model.text_model(input_ids, attention_mask)
            return model.text_projection(states.pooler_output)

    assert Clip(Four(), tokenizer).score(photo(), TARGET) == pytest.approx(expected, abs=1e-4)


def test_clip_of_a_region_sees_black_elsewhere(clip, region):
    black = Image.fromarray(np.asarray(photo()) * region[..., None].astype(np.uint8))
    assert blackened(photo(), region).tobytes() == black.tobytes()
    assert clip.score(photo(), TARGET, region) == clip.score(black, TARGET)


def test_clip_cuts_long_prompts(clip):
    assert clip.score(photo(), " ".join(["red dog"] * 50)) >= 0


@pytest.mark.parametrize("white", [1, 255])
def test_structure_distance_by_hand(vit_folder, white):
    structure = Structure(load_vit(vit_folder), size=32, white=white)
    model = load_vit(vit_folder)

    def similarities(picture):
        pixels = np.asarray(picture.resize((40, 32), Image.Resampling.BILINEAR), float)
        pixels = (pixels / 255 * white - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        tokens = model.embeddings(
            torch.tensor(pixels).float().permute(2, 0, 1)[None], interpolate_pos_encoding=True
        )
        for layer in model.layers[:-1]:
            tokens = layer(tokens)
        last = model.layers[-1]
        keys = last.attention.k_proj(last.layernorm_before(tokens))[0].numpy()
        keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        return keys @ keys.T

    a, b = photo(), noisy(photo(), 60)
    first, second = similarities(a), similarities(b)
    assert first.shape == (1 + 4 * 5,) * 2
    assert structure.distance(a, b) == pytest.approx(((first - second) ** 2).mean(), rel=1e-3)
    assert structure.distance(a, a) == 0


def test_structure_distance_of_another_layer(vit_folder):
    first, last = (Structure(load_vit(vit_folder), size=32, layer=i) for i in (0, 2))
    a, b = photo(), photo(seed=9)
    assert first.distance(a, b) != last.distance(a, b)
    with pytest.raises(ModelError, match=r"3 attention layers.*layer 11"):
        Structure(load_vit(vit_folder), layer=11)


def test_missing_weights_are_said(tmp_path):
    for load in (load_clip, load_vit):
        with pytest.raises(ModelError, match="nowhere"):
            load(tmp_path / "nowhere")


def slow_lpips(measure, a, b):
    """The paper's sum, position by position; the network's layers are run one by one."""

    def features(picture):
        x = torch.tensor(np.asarray(picture) / 255, dtype=torch.float32).permute(2, 0, 1)[None]
        x = x * 2 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shift[:, None, None]) / scale[:, None, None]
        out = []
        for number, layer in enumerate(measure.features):
            x = layer(x)
            if number in measure._taps:
                out.append(x[0].permute(1, 2, 0).numpy())
        return out

    total = 0.0
    for p, q, w in zip(features(a), features(b), measure.linear, strict=True):
        p = p / np.linalg.norm(p, axis=-1, keepdims=True)
        q = q / np.linalg.norm(q, axis=-1, keepdims=True)
        total += np.mean(
            [
                (w.numpy() * (x - y) ** 2).sum()
                for x, y in zip(p.reshape(-1, p.shape[-1]), q.reshape(-1, q.shape[-1]), strict=True)
            ]
        )
    return total


@pytest.fixture(scope="module", params=["squeeze", "alex", "vgg"])
def lpips(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return LPIPS(request.param)


def test_lpips_by_hand(lpips, pair):
    assert lpips.distance(*pair) == pytest.approx(slow_lpips(lpips, *pair), rel=1e-4)
    assert lpips.distance(pair[0], pair[0]) == 0


def test_lpips_of_a_region(lpips, pair, region):
    a, b = pair
    changed = inside_out(b, region)
    for way in ("area", "pie"):
        assert lpips.distance(a, changed, region, way=way) == lpips.distance(a, b, region, way=way)
    black = [blackened(picture, region) for picture in pair]
    assert lpips.distance(a, b, region, way="pie") == pytest.approx(lpips.distance(*black))
    assert math.isnan(lpips.distance(a, b, np.zeros_like(region)))
    full = np.ones_like(region)
    assert lpips.distance(a, b, full) == pytest.approx(lpips.distance(a, b), rel=0.5)
    assert lpips.distance(a, b, region) > lpips.distance(a, b, region, way="pie")


def test_lpips_weights_in_their_published_files(lpips, pair, tmp_path, monkeypatch):
    """torchvision's names in one file, those of the lpips package in the other."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    net, name = lpips.net, {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}
    backbone = {k: v for k, v in lpips.state_dict().items() if k.startswith("features.")}
    heads = {f"lin{i}.model.1.weight": w[None, :, None, None] for i, w in enumerate(lpips.linear)}
    with pytest.raises(ModelError, match=name[net]):
        find_weights(net, tmp_path)
    torch.save(
        {**backbone, "classifier.1.bias": torch.zeros(3)}, tmp_path / f"{name[net]}-0abc.pth"
    )
    with pytest.raises(ModelError, match=rf"lacks {net}\.pth"):
        find_weights(net, tmp_path)
    torch.save(heads, tmp_path / f"{net}.pth")
    loaded = LPIPS.load(net, *find_weights(net, tmp_path))
    assert loaded.distance(*pair) == lpips.distance(*pair)


def test_lpips_refusals(pair, tmp_path):
    with pytest.raises(ConfigError, match="'alex'"):
        LPIPS("alexnet")
    broken = tmp_path / "alex.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"alex\.pth"):
        LPIPS.load("alex", broken, broken)
    empty = tmp_path / "empty.pth"
    torch.save({}, empty)
    with pytest.raises(ModelError, match="not the weights of LPIPS with 'alex'"):
        LPIPS.load("alex", empty, empty)
    with pytest.raises(ImageError, match="one size"):
        LPIPS("alex").distance(pair[0], pair[1].crop((0, 0, 32, 32)))
