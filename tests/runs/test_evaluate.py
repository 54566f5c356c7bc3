"""Tests of effdet/runs/evaluate.py: evaluating from Python."""

import copy
import json
import logging
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import effdet
from effdet.config import load_config
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.detector.views import Views
from effdet.evaluation.coco import evaluate_coco
from effdet.models.architecture import Architecture
from effdet.runs.data import dataset_of
from effdet.runs.evaluate import (
    check_measurable,
    detect_dataset,
    evaluate,
    evaluate_dataset,
    evaluate_with_results,
)
from effdet.structures import Detections
from effdet.training.distributed import World


class Seer(EfficientDet):
    """Detects the ground truth of its batch."""

    def detect(self, batch):
        return [
            Detections(
                target.boxes / scale.repeat(2),
                target.classes,
                torch.full((len(target.boxes),), 0.9),
                self.class_names,
                self.category_ids,
            )
            for target, scale in zip(batch.targets, batch.scales, strict=True)
        ]


def build(kind, dataset):
    torch.manual_seed(0)
    return kind(
        "lite0",
        num_classes=dataset.num_classes,
        image_size=(64, 64),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
    ).eval()


@pytest.fixture(scope="module")
def val(demo_root):
    return find_dataset(demo_root, "val")


@pytest.fixture(scope="module")
def seer(val):
    return build(Seer, val)


@pytest.fixture(scope="module")
def model(val):
    return build(EfficientDet, val)


def changed(demo_root, target, change):
    """Copy the demo set with its validation annotations changed."""
    shutil.copytree(demo_root, target)
    content = json.loads((target / "val.json").read_text())
    change(content)
    (target / "val.json").write_text(json.dumps(content))
    return target


def test_evaluate_is_public():
    assert effdet.evaluate is evaluate
    assert effdet.CocoMetrics.__name__ == "CocoMetrics"


def test_data_may_come_in_every_form(demo_root, val, seer, tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text(f"data: {{root: {demo_root}}}")
    for data in (val, demo_root, str(demo_root), demo_root / "val.json", file, str(file), load_config(file)):
        metrics = evaluate(seer, data, workers=0)
        assert metrics.ap == pytest.approx(1)
        assert list(metrics.per_class) == list(val.class_names)


def test_a_config_may_name_the_files_of_a_split(demo_root, tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text(f"data: {{root: {demo_root}, val_annotations: train.json, val_images: images}}")
    assert len(dataset_of(file, "val")) == 16
    assert len(dataset_of(file, "train")) == 16


def test_a_missing_split_is_one_sentence(demo_root, seer):
    with pytest.raises(DataError, match="test"):
        evaluate(seer, demo_root, split="test", workers=0)


def test_the_numbers_are_those_of_the_saved_results(demo_root, val, model):
    done = evaluate_with_results(model, val, workers=0, score_threshold=0.0)
    assert len(done.results) > 100
    by_file = evaluate_coco(demo_root / "val.json", done.results.to_rows(), backend="pycocotools")
    assert done.metrics.numbers() == by_file.numbers()
    assert (len(done.dataset), done.unreadable) == (8, ())
    assert done.seconds > 0


def test_only_the_chosen_images_are_read_and_count(val, seer):
    chosen = val.image_ids[[1, 5]]
    done = evaluate_with_results(seer, val, workers=0, image_ids=chosen)
    assert sorted(done.dataset.image_ids.tolist()) == sorted(chosen.tolist())
    assert set(done.results.image_ids.tolist()) <= set(chosen.tolist())
    assert done.metrics.ap == pytest.approx(1)


def test_a_chosen_image_must_be_in_the_data_set(val, seer):
    with pytest.raises(ValueError, match=r"image_ids must be images of .*val.json, got -5"):
        evaluate(seer, val, workers=0, image_ids=[-5])


def test_the_score_threshold_is_that_of_this_evaluation_only(val, model):
    before = model.settings
    few = evaluate_with_results(model, val, workers=0, score_threshold=0.012)
    all_of_them = evaluate_with_results(model, val, workers=0, score_threshold=0.0)
    assert few.results.scores.min(initial=1) >= 0.012
    assert len(few.results) < len(all_of_them.results)
    assert model.settings == before
    with pytest.raises(ValueError, match=r"score_threshold must lie in \[0, 1\], got 2"):
        evaluate(model, val, workers=0, score_threshold=2)


def test_a_model_in_training_mode_is_evaluated_and_stays_as_it_is(val, model):
    training = copy.deepcopy(model).train()
    state = copy.deepcopy(training.state_dict())
    expected = evaluate_with_results(model, val, workers=0).results
    found = evaluate_with_results(training, val, workers=0).results
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert all(module.training for module in training.modules())
    assert all(torch.equal(value, state[name]) for name, value in training.state_dict().items())


def test_two_processes_share_the_images(val, model):
    """Each process detects its half; the main one gets both."""
    whole = detect_dataset(model, val, batch_size=3, workers=0)
    halves = [
        detect_dataset(model, val, batch_size=3, workers=0, world=OneOfTwo(torch.device("cpu"), rank, 2))
        for rank in (0, 1)
    ]
    ids = [set(half.image_ids.tolist()) for half in halves]
    assert ids[0] == set(val.image_ids[::2].tolist())
    assert ids[1] == set(val.image_ids[1::2].tolist())
    assert len(halves[0]) + len(halves[1]) == len(whole)


def test_tiles_larger_than_the_images_give_the_detections_of_the_images(val, model):
    plain = detect_dataset(model, val, batch_size=3, workers=0)
    tiled = detect_dataset(model, val, batch_size=3, workers=1, views=Views(tiles=10_000))
    assert tiled.image_ids.tolist() == plain.image_ids.tolist()
    np.testing.assert_allclose(tiled.boxes, plain.boxes, atol=1e-3)
    np.testing.assert_allclose(tiled.scores, plain.scores, atol=1e-5)


def test_views_are_evaluated_as_they_predict(val, model, demo_root):
    options = {"tiles": 100, "overlap": 0.3, "flip": True, "scales": (1, 0.5)}
    found = evaluate_with_results(model, val, workers=0, image_ids=[val.image_ids[2]], **options).results
    rows = found.image_ids == val.image_ids[2]
    (predicted,) = model.predict(val.path(2), score_threshold=0, batch_size=8, **options)
    assert int(rows.sum()) == len(predicted) > 100
    np.testing.assert_allclose(np.sort(found.scores[rows])[-20:], predicted.scores[:20].flip(0).numpy(), rtol=1e-3)


def test_views_leave_out_what_cannot_be_read_and_are_shared_by_processes(demo_root, model, tmp_path, caplog):
    dataset = with_damaged_images(demo_root, tmp_path / "other", 1)
    options = {"batch_size": 3, "workers": 0, "views": Views(tiles=200)}
    assert set(detect_dataset(model, dataset, **options).image_ids) == set(dataset.image_ids[:-1])
    assert "damaged-" in caplog.text
    half = detect_dataset(model, dataset, **options, world=OneOfTwo(torch.device("cpu"), 0, 2))
    assert set(half.image_ids.tolist()) == set(dataset.image_ids[::2].tolist())


def test_views_that_do_not_suit_the_model_are_found_before_the_first_image_is_read(val, model):
    with pytest.raises(ValueError, match="tiles must be a number of pixels for lite0, got 'auto'"):
        evaluate(model, val, tiles="auto")


class OneOfTwo(World):
    """A process whose gathering brings only its own part."""

    def gather(self, rows):
        return rows


def test_detections_that_are_not_finite_are_refused(val, seer, monkeypatch):
    detect = Seer.detect

    def broken(self, batch):
        return [replace(found, boxes=found.boxes * float("nan")) for found in detect(self, batch)]

    monkeypatch.setattr(Seer, "detect", broken)
    with pytest.raises(ValueError, match=r"of lite0: boxes must be finite, got \[nan, .* in row 0, image \d+"):
        evaluate(seer, val, workers=0)


def test_weights_that_are_not_finite_are_refused(val, model):
    """Post-processing drops boxes with NaN, so that their AP would be 0 without a word."""
    broken = copy.deepcopy(model)
    name, weight = next(iter(broken.network.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[3] = float("nan")
    message = rf"weights of lite0 must be finite, got NaN or infinite numbers in 1 tensors, the first network.{name};"
    with pytest.raises(ValueError, match=message):
        evaluate(broken, val, workers=0)


@pytest.mark.parametrize("rename", [lambda number: f"img {number:04}", lambda number: number + 2**63])
def test_image_ids_may_be_texts_or_huge(demo_root, seer, tmp_path, rename):
    def change(content):
        for image in content["images"]:
            image["id"] = rename(image["id"])
        for box in content["annotations"]:
            box["image_id"] = rename(box["image_id"])

    done = evaluate_with_results(seer, changed(demo_root, tmp_path / "other", change), workers=0)
    assert done.metrics.ap == pytest.approx(1)
    found = set(done.results.image_ids.tolist())
    assert found
    assert found <= set(done.dataset.image_ids.tolist())


def test_boxes_may_be_number_strings(demo_root, seer, tmp_path):
    def change(content):
        for box in content["annotations"]:
            box.update(bbox=[str(number) for number in box["bbox"]], iscrowd=str(box.get("iscrowd", 0)))

    assert evaluate(seer, changed(demo_root, tmp_path / "other", change), workers=0).ap == pytest.approx(1)


def test_chosen_images_without_boxes_cannot_be_measured(demo_root, seer, tmp_path):
    def change(content):
        first = content["images"][0]["id"]
        content["annotations"] = [box for box in content["annotations"] if box["image_id"] != first]

    dataset = find_dataset(changed(demo_root, tmp_path / "other", change), "val")
    message = r"val.json must have boxes that are not crowds to measure AP, but it has none; add boxes, or choose"
    with pytest.raises(ValueError, match=message):
        evaluate(seer, dataset, workers=0, image_ids=dataset.image_ids[:1])
    crowded = replace(dataset, is_crowd=np.ones_like(dataset.is_crowd))
    with pytest.raises(ValueError, match=f"but all {len(dataset.is_crowd)} boxes are crowds"):
        check_measurable(seer, crowded)


def test_other_classes_are_found_before_the_first_image_is_read(val, seer):
    with pytest.raises(ValueError, match="the model's classes must include the data set's categories"):
        check_measurable(seer, replace(val, class_names=("whale", *val.class_names[1:])))


def test_unreadable_images_are_left_out_and_named(demo_root, seer, tmp_path, caplog):
    def change(content):  # enough images that one is less than a tenth
        content["images"] += [{**item, "id": item["id"] + 500} for item in content["images"]]
        content["images"][-1]["file_name"] = "nowhere.jpg"

    with caplog.at_level(logging.WARNING):
        done = evaluate_with_results(seer, changed(demo_root, tmp_path / "other", change), workers=0)
    assert (len(done.dataset), len(done.unreadable)) == (15, 1)
    assert "left out: " in caplog.text
    assert "nowhere.jpg" in caplog.text
    assert done.metrics.ap == pytest.approx(1)


def test_too_many_unreadable_images_are_an_error(demo_root, seer, tmp_path):
    def change(content):
        for image in content["images"][:2]:
            image["file_name"] = f"{image['id']}-nowhere.jpg"

    data = changed(demo_root, tmp_path / "other", change)
    with pytest.raises(DataError, match=r"2 of the 8 images of .*val.json cannot be read, more than the 10%"):
        evaluate(seer, data, workers=0)


def with_damaged_images(demo_root, target, count):
    """Copy the demo set with every image listed twice, of which the last ``count`` are damaged."""

    def change(content):
        twice = [{**item, "id": item["id"] + 500} for item in content["images"]]
        content["images"] += twice
        for image in twice[-count:]:
            image["file_name"] = f"damaged-{image['id']}.jpg"

    data = changed(demo_root, target, change)
    for image in json.loads((data / "val.json").read_text())["images"]:
        file = data / "images" / image["file_name"]
        if not file.exists():
            file.write_bytes(b"broken")
    return find_dataset(data, "val")


def test_an_image_that_is_damaged_later_is_left_out_of_the_numbers(demo_root, seer, tmp_path, caplog):
    """The check at the start looks at a sample of a large data set only."""
    dataset = with_damaged_images(demo_root, tmp_path / "other", 1)
    without = dataset.without([15])
    assert evaluate_dataset(seer, dataset, batch_size=4, workers=0).numbers() == (
        evaluate_dataset(seer, without, batch_size=4, workers=0).numbers()
    )
    assert "left out: " in caplog.text
    assert "damaged-" in caplog.text
    assert set(detect_dataset(seer, dataset, batch_size=4, workers=0).image_ids) <= set(without.image_ids)


def test_too_many_images_that_are_damaged_later_are_an_error(demo_root, seer, tmp_path):
    dataset = with_damaged_images(demo_root, tmp_path / "other", 2)
    message = r"at most 10% of the images of .*val.json may be unreadable, got 2 of 16; the first is .*damaged-"
    with pytest.raises(DataError, match=message):
        evaluate_dataset(seer, dataset, batch_size=4, workers=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
        ({"backend": "fast"}, "backend must be auto, pycocotools or hotcoco, got 'fast'"),
    ],
)
def test_arguments_out_of_range_are_refused(val, seer, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(seer, val, **options)


def test_an_evaluation_in_a_thread_gives_the_same(val, model):
    expected = evaluate(model, val, workers=0)
    found = []
    thread = threading.Thread(target=lambda: found.append(evaluate(model, val, workers=0)))
    thread.start()
    thread.join()
    assert found[0].numbers() == expected.numbers()


@pytest.mark.slow
def test_an_export_is_evaluated_as_the_model_that_it_came_from(val, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    from effdet.deployment.export import ExportOptions, export

    torch.manual_seed(0)
    small = replace(Architecture.named("lite0"), channels=16, neck_repeats=1, head_repeats=1)
    names = {"class_names": val.class_names, "category_ids": val.category_ids}
    model = EfficientDet(small, val.num_classes, image_size=(64, 64), **names).eval()
    export(model, tmp_path / "model.onnx", ExportOptions())
    exported = effdet.load(tmp_path / "model.onnx")
    before = exported.settings
    found = [evaluate_with_results(each, val, workers=0, score_threshold=0.0) for each in (model, exported)]
    np.testing.assert_allclose(np.sort(found[1].results.scores), np.sort(found[0].results.scores), atol=1e-4)
    np.testing.assert_allclose(found[1].metrics.numbers(), found[0].metrics.numbers(), atol=1e-3)
    assert exported.settings == before
