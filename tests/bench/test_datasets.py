"""Published data sets: stand-ins of the same layout, and faults that name file and row."""

import json

import numpy as np
import pytest
from PIL import Image

from freeprompt.bench import DATASETS, Contender, Data, Plan, load_dataset, read_plan, run
from freeprompt.bench.datasets import TRAPS
from freeprompt.bench.datasets.pie import TYPES, decode
from freeprompt.bench.worker import Setup, Worker, painted
from freeprompt.errors import ConfigError
from freeprompt.world import COLORS


def picture(path, size=(512, 512), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def write(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data))


def pie_row(kind="1", **more):
    return {
        "image_path": f"{kind}_change/000{kind}.jpg",
        "original_prompt": "a [red] dog in the park",
        "editing_prompt": "a [blue] cat in the park",
        "editing_instruction": "make it a blue cat",
        "editing_type_id": kind,
        "blended_word": "dog cat",
        "mask": [512 * 100, 512 * 50, 512 * 200 + 7, 20],
        **more,
    }


@pytest.fixture
def pie(tmp_path):
    """PIE-Bench in small: one image of each type."""
    rows = {f"{int(kind):012d}": pie_row(kind) for kind in TYPES}
    for seed, row in enumerate(rows.values()):
        picture(tmp_path / "annotation_images" / row["image_path"], seed=seed)
    write(tmp_path / "mapping_file.json", rows)
    return tmp_path


@pytest.fixture
def cars(tmp_path):
    rows = [
        {"image_name": "000018.jpg", "soure_prompt": "a white car", "edit_prompt": "a red car"},
        {"image_name": "000018.jpg", "source_prompt": "a white car", "edit_prompt": "a blue car"},
    ]
    write(tmp_path / "Car_real_edit.json", rows)
    picture(tmp_path / "car_ims" / "000018.jpg", (60, 40))
    return tmp_path


def test_car_fake_edit_is_made_of_the_colors() -> None:
    items = load_dataset("car-fake").items
    pairs = {(i.source, i.target) for i in items}
    expected = {(f"a {a} car", f"a {b} car") for a in COLORS for b in COLORS if a != b}
    assert len(items) == len({i.id for i in items}) == 756
    assert pairs == expected
    assert ("a orange car", "a red car") in pairs  # as published
    assert {i.track for i in items} == {"generated"}
    assert len({i.seed for i in items}) == 756


def test_car_real_edit_takes_both_spellings(cars) -> None:
    first, second = load_dataset("car-real", cars).items
    assert (first.source, first.target, first.track) == ("a white car", "a red car", "real")
    assert second.source == "a white car"
    assert first.picture(64).size == (60, 40)


def test_imagenet(tmp_path) -> None:
    name = "n02088364/ILSVRC2012_val_00000001.JPEG"
    row = {"image_name": name, "soure_prompt": "a photo of a beagle", "edit_prompt": "a poodle"}
    write(tmp_path / "ImageNet_real_edit.json", [row])
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")  # folders of classes are optional
    (item,) = load_dataset("imagenet-real", tmp_path).items
    assert item.picture(64).size == (512, 512)
    fake = {"soure_prompt": "a tiger", "edit_prompt": "a lion"}
    write(tmp_path / "ImageNet_fake_edit.json", [fake, {**fake, "edit_prompt": "a cat"}, fake])
    data = load_dataset("imagenet-fake", tmp_path)
    assert [i.target for i in data.items] == ["a lion", "a cat", "a lion"]
    assert data.notes == ("1 pairs occur twice in the published file",)


def slow_mask(runs):
    """The published encoding, pixel by pixel."""
    mask = [[False] * 512 for _ in range(512)]
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for pixel in range(start, min(start + length, 512 * 512)):
            mask[pixel // 512][pixel % 512] = True
    return np.array(mask)


def test_masks_of_pie_bench() -> None:
    runs = [5, 3, 512 * 3 + 500, 40, 512 * 512 - 2, 100]
    mask = decode(runs)
    assert (mask == slow_mask(runs)).all()
    assert mask.sum() == 3 + 40 + 2
    border = decode(runs, border=True)
    assert border.sum() > mask.sum()
    assert (border[1:-1, 1:-1] == mask[1:-1, 1:-1]).all()
    assert border[0].all() and border[-1].all() and border[:, 0].all() and border[:, -1].all()
    assert not decode([]).any()


def test_pie_bench(pie) -> None:
    data = load_dataset("pie-bench", pie)
    assert [item.cell for item in data.items] == list(TYPES.values())
    item = data.items[0]
    assert (item.source, item.target) == ("a red dog in the park", "a blue cat in the park")
    assert item.blend_words == ("dog", "cat")
    assert (item.background((512, 512)) == ~slow_mask(item.runs)).all()
    small = item.background((64, 64))
    assert small.shape == (64, 64)
    assert small.mean() == pytest.approx(item.background((512, 512)).mean(), abs=0.02)


def test_methods_can_be_told_what_pie_bench_marks(pie, full_model) -> None:
    item = load_dataset("pie-bench", pie).items[0]
    worker = Worker(Setup(model=str(full_model), device="cpu", metrics={"lpips": ""}))
    few = {"steps": 2, "guidance": 3.0, "prompt": "given"}

    def made(method, hints):
        contender = Contender(method=method, hints=hints, **few)
        row = worker.row(item, contender, "key")
        assert row["error"] is None
        return row

    assert made("p2p", "words")["provenance"]["parameters"]["blend_words"] == "dog,cat"
    masked, found = (made("diffedit", hints)["scores"] for hints in ("mask", "none"))
    assert masked["psnr"] != found["psnr"]  # the mask is not the one that the method finds
    white = np.asarray(painted(item, (512, 512)))
    assert set(np.unique(white)) == {0, 255}
    assert ((white == 255) == slow_mask(item.runs)).all()


def test_traps_of_pie_bench_can_be_repeated(pie) -> None:
    data = load_dataset("pie-bench", pie, traps=["border-mask", "markers"])
    item = data.items[0]
    assert item.source == "a [red] dog in the park"
    assert not item.background((512, 512))[0].any()
    assert len(data.notes) == len(TRAPS) == 2


def test_a_mask_of_everything_is_noted(pie) -> None:
    rows = {"0": pie_row(mask=[0, 512 * 512])}
    write(pie / "mapping_file.json", rows)
    assert "1 masks cover the whole picture" in load_dataset("pie-bench", pie).notes[0]


def test_tedbench(tmp_path) -> None:
    write(tmp_path / "input_list.json", [{"img_name": "bird.jpeg", "target_text": "A bird."}])
    picture(tmp_path / "originals" / "bird.jpeg")
    (item,) = load_dataset("tedbench", tmp_path).items
    assert (item.source, item.target, item.track) == ("", "A bird.", "real")


def test_ti2i(tmp_path) -> None:
    real = (
        "- init_img: data/bear.jpeg\n  target_prompts: [a toy bear, a sculpture of a bear]\n"
        "- init_img: data/bear.jpeg\n  source_prompt: a bear\n  target_prompts: [a dog]\n"
    )
    fake = "- source_prompt: a castle\n  seed: 42\n  scale: 5.0\n  target_prompts: [a house]\n"
    picture(tmp_path / "data" / "bear.jpeg")
    for name, files in {
        "wild-ti2i": ("wild-ti2i-real.yaml", "wild-ti2i-fake.yaml"),
        "imagenet-r-ti2i": ("imnetr-ti2i.yaml", "imnetr-fake-ti2i.yaml"),
    }.items():
        write(tmp_path / files[0], real)
        alone = load_dataset(name, tmp_path)
        assert [i.track for i in alone.items] == ["real"] * 3
        write(tmp_path / files[1], fake)
        items = load_dataset(name, tmp_path).items
        assert [i.target for i in items[:3]] == ["a toy bear", "a sculpture of a bear", "a dog"]
        assert (items[3].source, items[3].seed, items[3].track) == ("a castle", 42, "generated")
        assert len({i.id for i in items}) == 4
        assert alone.notes == ("2 real images have no source prompt",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": [1, 2, 3]}, r"mapping_file\.json', row 7: 'mask' must be starts and lengths"),
        ({"mask": [512 * 512, 1]}, "row 7: 'mask'"),
        ({"mask": "1 2"}, "row 7: 'mask' must be list"),
        ({"editing_type_id": "12"}, "row 7: 'editing_type_id' must be 0 to 9"),
        ({"image_path": "nowhere.jpg"}, r"row 7: there is no image 'nowhere\.jpg'"),
        ({"editing_prompt": 3}, "row 7: 'editing_prompt' must be str; it is 3"),
    ],
)
def test_faults_name_file_and_row(pie, change, message) -> None:
    write(pie / "mapping_file.json", {"7": pie_row(**change)})
    with pytest.raises(ConfigError, match=message):
        load_dataset("pie-bench", pie)


def test_other_faults(tmp_path, cars, pie) -> None:
    row = pie_row()
    del row["editing_prompt"]
    write(pie / "mapping_file.json", {"7": row})
    with pytest.raises(ConfigError, match="row 7: there is no 'editing_prompt' in it"):
        load_dataset("pie-bench", pie)
    write(cars / "Car_real_edit.json", [["not", "a", "record"]])
    with pytest.raises(ConfigError, match=r"Car_real_edit\.json', row 0: is list, not a record"):
        load_dataset("car-real", cars)
    write(cars / "Car_real_edit.json", "{")
    with pytest.raises(ConfigError, match=r"Car_real_edit\.json' is damaged"):
        load_dataset("car-real", cars)
    with pytest.raises(ConfigError, match=r"input_list\.json' cannot be read"):
        load_dataset("tedbench", tmp_path)
    with pytest.raises(ConfigError, match=r"neither wild-ti2i-real\.yaml nor"):
        load_dataset("wild-ti2i", tmp_path)


def test_what_a_data_set_needs_is_said(tmp_path) -> None:
    for name, entry in DATASETS.items():
        if entry.needs:
            with pytest.raises(ConfigError, match="yours to download"):
                load_dataset(name)
    with pytest.raises(ConfigError, match=r"Unknown data set 'pie-bensh' \(did you mean"):
        load_dataset("pie-bensh", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'markers'"):
        load_dataset("pie-bench", tmp_path, traps=["marker"])
    with pytest.raises(ConfigError, match="knows no traps"):
        load_dataset("car-fake", traps=["markers"])
    with pytest.raises(ConfigError, match="has no split 'tune'"):
        load_dataset("car-fake", split="tune")


def test_pie_bench_from_end_to_end(pie, model, clip_folder, vit_folder, tmp_path) -> None:
    """The stand-in through a model, with every measure that PIE-Bench's table has but LPIPS."""
    few = {"steps": 3, "guidance": 3.0}
    plan = Plan(
        model=str(model),
        device="cpu",
        data=Data(name="pie-bench", path=pie, cells=("random", "change style")),
        metrics={
            "clip": str(clip_folder),
            "dino": str(vit_folder),
            "lpips": "",
            "ways": ["area", "pie"],
            "ssim": "reflected",
        },
        contenders=(Contender(method="copy"), Contender(method="fpe", **few)),
    )
    rows = run(plan, tmp_path / "run").rows()
    assert [row["error"] for row in rows] == [None] * 4
    copy, fpe = rows[0]["scores"], rows[1]["scores"]
    assert copy["psnr_area"] == 60 > fpe["psnr_pie"] > fpe["psnr_area"]
    assert copy["structure"] == 0 < fpe["structure"]
    assert copy["ssim_area"] == pytest.approx(1) and fpe["ssim_area"] < 0.9
    assert {"clip", "clip_edited", "clip_direction", "mse_pie", "ssim_pie"} <= set(fpe)
    assert rows[1]["provenance"]["source"] is None  # FPE needs no source prompt


def test_edits_made_elsewhere_are_scored_too(pie, model, tmp_path) -> None:
    """Strips whose last square is the source itself: nothing was edited, and the scores say so."""
    rows = {"0": pie_row("1")}
    write(pie / "mapping_file.json", rows)
    own = pie / "annotation_images" / rows["0"]["image_path"]
    with Image.open(own) as source:
        strip = Image.new("RGB", (4 * 512, 512), "black")
        strip.paste(source, (3 * 512, 0))
    for name, made in (("strips", strip), ("plain", strip.crop((0, 0, 512, 512)))):
        path = (tmp_path / name / rows["0"]["image_path"]).with_suffix(".png")
        path.parent.mkdir(parents=True)
        made.save(path)
    text = f'model = "{model}"\ndevice = "cpu"\nbaselines = []\n[data]\nname = "pie-bench"\n'
    text += f'path = "{pie}"\n[metrics]\nlpips = ""\n'
    for label, folder, flag in (
        ("theirs", "strips", "true"),
        ("black", "plain", "false"),
        ("mistaken", "plain", "true"),
        ("missing", "nowhere", "true"),
    ):
        text += f'[[pictures]]\nlabel = "{label}"\nfolder = "{folder}"\nstrip = {flag}\n'
    (tmp_path / "plan.toml").write_text(text)
    rows = {row["label"]: row for row in run(read_plan(tmp_path / "plan.toml"), tmp_path).rows()}
    assert rows["theirs"]["scores"]["psnr"] == 60
    assert rows["black"]["scores"]["psnr"] < 20
    assert "sample_forwards" not in rows["black"]["scores"]  # nobody knows
    assert "512 × 512, no strip of squares" in rows["mistaken"]["error"]
    assert "has no picture of item 0" in rows["missing"]["error"]
