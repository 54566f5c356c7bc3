"""The doctor as a training sees it: the network of the config, and the checks at the start."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from effdet.config import load_config
from effdet.data.findings import DataError
from effdet.runs.check_data import check_before_training, check_data, clean_data, config_for, network_of
from effdet.runs.data import read_data
from effdet.runs.show_data import show_data


@pytest.fixture
def photos(photo_sets, tmp_path):
    return shutil.copytree(photo_sets / "bccd", tmp_path / "bccd")


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def before_training(root, *overrides):
    config = load_config("custom", [f"data.root={root}", *overrides])
    check_before_training(config, *read_data(config.data))


def test_the_start_of_a_training_says_nothing_about_a_clean_set(photos, caplog):
    with caplog.at_level(logging.WARNING):
        before_training(photos)
    assert caplog.messages == []


def test_the_start_of_a_training_names_what_needs_no_image(photos, caplog):
    def edit(content):
        content["annotations"] += [{**content["annotations"][0], "id": 10**6}]
        content["categories"].append({"id": 9, "name": "rbc"})

    change(photos / "train.json", edit)
    with caplog.at_level(logging.WARNING):
        before_training(photos)
    texts = [message.partition(":")[2].strip() for message in caplog.messages]
    assert [text.partition(";")[0] for text in texts] == [
        "train: class names differ only in capitals, spaces or signs: 1 ('RBC' (188 boxes) and 'rbc' (0))",
        "train: classes have no boxes: 1 (rbc)",
        "train: boxes are there more than once, with the same class: 1 "
        f"(annotation 1000000 of {json.loads((photos / 'train.json').read_text())['images'][0]['file_name']})",
    ]


def test_a_training_on_boxes_in_another_order_is_refused(photos):
    def edit(content):
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            row["bbox"] = [y, x, height, width]

    change(photos / "val.json", edit)
    with pytest.raises(DataError, match=r"val.json: boxes hold y, x, height, width, where the format has x, y, width"):
        before_training(photos)


def test_the_network_is_that_of_the_config(photos):
    train, _ = read_data(load_config("custom", [f"data.root={photos}"]).data)
    network = network_of(load_config("custom", ["model.name=d1", "data.long_side=512", "eval.max_detections=7"]), train)
    assert (network.name, network.image_size, network.max_detections) == ("d1", (384, 512), 7)
    result = check_data(photos, overrides=["model.architecture.anchor_scale=30"], quick=True)
    assert result.network.name == "custom"
    assert result.anchors.recall < 0.5
    assert result.anchors.suggested_recall > 0.9


def test_a_config_may_name_the_data_or_come_beside_it(photos, tmp_path):
    (tmp_path / "own.yaml").write_text(
        f"data: {{root: {photos}, val_annotations: train.json}}\nmodel: {{name: lite1}}\n"
    )
    own = config_for(tmp_path / "own.yaml", None, [])
    assert (own.model.name, own.data.val_annotations) == ("lite1", "train.json")
    beside = config_for(photos, tmp_path / "own.yaml", ["model.name=lite2"])
    assert (beside.model.name, beside.data.root, beside.data.val_annotations) == ("lite2", str(photos), None)
    both = config_for(tmp_path / "own.yaml", "custom", [])
    assert (both.model.name, both.data.root, both.data.val_annotations) == ("lite0", str(photos), "train.json")


def test_of_very_many_boxes_a_sample_is_checked_at_the_start_and_all_by_the_doctor(photos, caplog, monkeypatch):
    def edit(content):
        content["annotations"].append({**content["annotations"][-1], "id": 10**6})  # a box twice, in one image
        content["categories"].append({"id": 9, "name": "rbc"})

    change(photos / "train.json", edit)
    monkeypatch.setattr("effdet.runs.check_data.MOST_BOXES", 20)
    with caplog.at_level(logging.INFO):
        before_training(photos)
    told = "\n".join(caplog.messages)
    assert "a sample of about 20 is checked; effdet data check looks at all" in told
    assert "classes have no boxes: 1 (rbc)" in told
    assert "more than once" not in told
    found = check_data(photos, estimate=False, quick=True).findings
    assert any("more than once" in finding.text for finding in found)


def test_the_estimate_counts_as_many_images_as_the_config_allows(photos, monkeypatch):
    seen = []

    def estimate(config, train, num_val):
        seen.append((len(train), num_val))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("effdet.runs.estimate.estimate_training", estimate)
    found = check_data(photos, overrides=["data.max_train_images=7", "data.max_val_images=2"])
    assert seen == [(7, 2)]
    assert found.estimate is None
    assert any("too little memory to train" in finding.text for finding in found.findings)


@pytest.mark.parametrize(
    ("channels", "dtype", "suffix"),
    [(1, "uint8", "png"), (1, "uint16", "png"), (4, "uint8", "png"), (5, "float32", "npy")],
)
def test_images_that_are_not_8_bit_rgb_are_checked_and_shown(photos, tmp_path, channels, dtype, suffix):
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for part in ("train", "val"):
        content = json.loads((photos / f"{part}.json").read_text())
        content["images"] = content["images"][:4]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
        for image in content["images"]:
            levels = np.asarray(Image.open(photos / "images" / image["file_name"]).convert("RGB"))
            values = np.stack([levels[..., number % 3] for number in range(channels)], axis=2).astype(dtype)
            values *= 200 if dtype == "uint16" else 1
            image["file_name"] = f"{part}_{image['id']}.{suffix}"
            file = root / "images" / image["file_name"]
            np.save(file, values) if suffix == "npy" else cv2.imwrite(str(file), values)
        (root / f"{part}.json").write_text(json.dumps(content))
    found = check_data(root, estimate=False).findings
    assert [finding for finding in found if finding.severity == "error"] == []
    odd = ("decoded", "one colour", "look the same")
    assert [finding.text for finding in found if any(word in finding.text for word in odd)] == []
    assert clean_data(root, tmp_path / "copy").images == {"train": 4, "val": 4}
    shown = show_data(root, tmp_path / "shown", images=1)
    sheet = np.asarray(Image.open(shown.contact_sheet))
    assert sheet.shape[2] == 3
    assert len(np.unique(sheet)) > 100
