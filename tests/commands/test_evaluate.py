"""Tests of effdet/commands/evaluate.py: the command as it is called."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from effdet.commands import main
from effdet.commands.evaluate import parser, print_metrics
from effdet.commands.model_options import PRESETS, load_model
from effdet.data.formats import find_dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.evaluation.coco import evaluate_coco
from effdet.images.preprocessing import Preprocessing
from effdet.ops.settings import PostprocessSettings
from effdet.structures import Detections

AP = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
AR = ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]
NUMBERS = AP + AR


@pytest.fixture(scope="session")
def weights(demo_root, tmp_path_factory):
    """A small model with random weights and the classes of the demo set."""
    torch.manual_seed(0)
    data = find_dataset(demo_root, "val")
    model = EfficientDet(
        "lite0",
        num_classes=data.num_classes,
        image_size=(64, 64),
        class_names=data.class_names,
        category_ids=data.category_ids,
    )
    path = tmp_path_factory.mktemp("weights") / "demo.safetensors"
    model.save_pretrained(path)
    return path


@pytest.fixture
def seer(monkeypatch):
    """Let every model detect exactly the ground truth of its batch, in the labels of the data set."""

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

    monkeypatch.setattr(EfficientDet, "detect", detect)


def read_numbers(text):
    return [float(line.rsplit("=", 1)[1]) for line in text.splitlines() if line.startswith(" Average")]


def test_a_results_file_gives_the_numbers_of_pycocotools(photo_sets, capsys):
    folder = photo_sets / "coco_open"
    results, truth = folder / "detections_val.json", folder / "val.json"
    assert main(["evaluate", "--predictions", str(results), "--annotations", str(truth)]) == 0
    out = capsys.readouterr().out
    by_pycocotools = [0.1624, 0.2709, 0.1509, 0.0103, 0.3893, 0.624, 0.1395, 0.1708, 0.1708, 0.0129, 0.3957, 0.6427]
    assert read_numbers(out) == by_pycocotools
    assert " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.1624\n" in out
    assert " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.1395\n" in out
    assert any(line.split() == ["person", "0.1518"] for line in out.splitlines())


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
def test_json_on_stdout_is_nothing_but_json(photo_sets, capsys, backend):
    folder = photo_sets / "coco_open"
    results, truth = folder / "detections_val.json", folder / "val.json"
    args = ["--predictions", str(results), "--annotations", str(truth), "--json", "-", "--backend", backend]
    assert main(["evaluate", *args]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert tuple(document[name] for name in NUMBERS) == evaluate_coco(truth, results).numbers()
    assert len(document["per_class"]) == 80
    assert len(read_numbers(captured.err)) == 12


def test_json_goes_to_a_file_in_a_new_folder(photo_sets, tmp_path, capsys):
    truth = photo_sets / "coco_open" / "val.json"
    (tmp_path / "none.json").write_text("[]")
    target = tmp_path / "deep" / "down" / "numbers.json"
    args = ["--predictions", str(tmp_path / "none.json"), "--annotations", str(truth), "--json", str(target)]
    assert main(["evaluate", *args]) == 0
    assert [json.loads(target.read_text())[name] for name in NUMBERS] == [0] * 12
    assert read_numbers(capsys.readouterr().out) == [0] * 12


def test_a_results_file_is_scored_without_torch(photo_sets):
    folder = photo_sets / "coco_open"
    args = ["evaluate", "--predictions", str(folder / "detections_val.json")]
    args += ["--annotations", str(folder / "val.json")]
    code = f"import sys; from effdet.commands import main; main({args!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("size", [["64"], ["96", "64"]])
def test_a_perfect_model_scores_one_at_every_input_size(demo_root, weights, seer, capsys, size):
    args = ["--weights", str(weights), "--data", str(demo_root), "--workers", "0", "--batch-size", "3"]
    assert main(["evaluate", *args, "--image-size", *size]) == 0
    captured = capsys.readouterr()
    assert read_numbers(captured.out)[:3] == [1, 1, 1]
    assert f"at {size[0]}×{size[-1]} on cpu" in captured.err


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_both_ends_and_options_come_on_top(weights, preset):
    model = load_model(parser().parse_args(["--weights", str(weights), "--preset", preset, "--max-detections", "7"]))
    assert model.preprocessing == Preprocessing.preset(preset)
    assert model.settings == replace(PostprocessSettings.preset(preset), max_detections=7)


def test_the_saved_results_score_the_same(demo_root, weights, tmp_path, capsys):
    args = ["--weights", str(weights), "--data", str(demo_root), "--workers", "1"]
    results = tmp_path / "found" / "results.json"
    args += ["--json", "-", "--save-results", str(results), "--nms", "hard", "--max-detections", "20"]
    assert main(["evaluate", *args]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 8
    assert 0 < len(json.loads(results.read_text())) <= 8 * 20
    rescored = evaluate_coco(demo_root / "val.json", results)
    assert rescored.numbers() == tuple(document[name] for name in NUMBERS)


def test_the_data_section_of_a_config_is_data(demo_root, weights, seer, tmp_path, capsys):
    config = tmp_path / "some.yaml"
    config.write_text(f"data: {{root: {demo_root}, val_annotations: train.json, val_images: images}}")
    args = ["--weights", str(weights), "--data", str(config), "--workers", "0"]
    assert main(["evaluate", *args]) == 0
    captured = capsys.readouterr()
    assert read_numbers(captured.out)[0] == 1
    assert "16 images in" in captured.err  # the training images, as the config says


def test_the_training_split_is_chosen_by_name(demo_root, weights, seer, capsys):
    args = ["--weights", str(weights), "--data", str(demo_root), "--workers", "0", "--split", "train"]
    assert main(["evaluate", *args]) == 0
    assert "16 images in" in capsys.readouterr().err


def renumbered(demo_root, target, change):
    """Copy the demo set with its categories changed."""
    shutil.copytree(demo_root, target)
    content = json.loads((target / "val.json").read_text())
    change(content)
    (target / "val.json").write_text(json.dumps(content))
    return target


def test_classes_are_matched_by_name_where_ids_differ(demo_root, weights, monkeypatch, tmp_path, capsys):
    def change(content):
        new = {item["id"]: 100 - item["id"] for item in content["categories"]}  # the order is reversed too
        for item in content["categories"]:
            item["id"] = new[item["id"]]
        for item in content["annotations"]:
            item["category_id"] = new[item["category_id"]]

    data = find_dataset(renumbered(demo_root, tmp_path / "other", change), "val")

    def detect(self, batch):  # finds the truth, by the model's own labels
        own = {name: label for label, name in enumerate(self.class_names)}
        labels = torch.tensor([own[name] for name in data.class_names])
        return [
            Detections(
                target.boxes / scale.repeat(2),
                labels[target.classes],
                torch.ones(len(target.boxes)),
                self.class_names,
                self.category_ids,
            )
            for target, scale in zip(batch.targets, batch.scales, strict=True)
        ]

    monkeypatch.setattr(EfficientDet, "detect", detect)
    assert main(["evaluate", "--weights", str(weights), "--data", str(tmp_path / "other"), "--workers", "0"]) == 0
    assert read_numbers(capsys.readouterr().out)[0] == 1


def test_other_classes_are_an_error_that_says_both(demo_root, weights, tmp_path, capsys):
    data = renumbered(demo_root, tmp_path / "other", lambda content: content["categories"][0].update(name="whale"))
    assert main(["evaluate", "--weights", str(weights), "--data", str(data), "--workers", "0"]) == 1
    error = capsys.readouterr().err
    assert "the model has 5 (" in error
    assert "circle" in error
    assert "whale" in error


def test_an_unreadable_image_is_named_and_left_out(demo_root, weights, seer, tmp_path, capsys):
    def change(content):  # enough images that one is less than a tenth
        content["images"] += [{**item, "id": item["id"] + 500} for item in content["images"]]
        shutil.copy(demo_root / "images" / content["images"][0]["file_name"], tmp_path / "other" / "images" / "b.jpg")
        content["images"][-1]["file_name"] = "b.jpg"

    data = renumbered(demo_root, tmp_path / "other", change)
    (data / "images" / "b.jpg").write_bytes((data / "images" / "b.jpg").read_bytes()[:1000])
    args = ["--weights", str(weights), "--data", str(data), "--workers", "0", "--json", "-"]
    assert main(["evaluate", *args]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert "b.jpg: truncated or corrupt" in captured.err
    assert (document["images"], document["ap"]) == (15, pytest.approx(1))
    assert "b.jpg" in document["unreadable"][0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "one of the arguments --weights --predictions is required"),
        (["--weights", "w", "--predictions", "p"], "not allowed with argument"),
        (["--weights", "w"], "--weights needs --data"),
        (["--predictions", "p"], "--predictions needs --annotations"),
        (["--weights", "w", "--data", "d", "--annotations", "a"], "--weights goes with --data, not with --annotations"),
        (
            ["--predictions", "p", "--annotations", "a", "--data", "d"],
            "--predictions goes with --annotations",
        ),
        (["--predictions", "p", "--annotations", "a", "--save-results", "s"], "--save-results goes with --weights"),
        (["--predictions", "p", "--annotations", "a", "--split", "val"], "--split goes with --weights"),
        (["--predictions", "p", "--annotations", "a", "--preset", "fast"], "--preset goes with --weights"),
        (
            ["--predictions", "p", "--annotations", "a", "--score-threshold", "0.1"],
            "--score-threshold goes with --weights, not with --predictions",
        ),
        (["--predictions", "p", "--annotations", "a", "--batch-size", "4"], "--batch-size goes with --weights"),
        (["--predictions", "p", "--annotations", "a", "--as", "mediapipe"], "--as goes with --weights"),
        (
            ["--weights", "w", "--data", "d", "--json", "-", "--save-results", "-"],
            "--json and --save-results cannot both go to stdout",
        ),
        (["--weights", "w", "--data", "d", "--batch-size", "0"], "--batch-size must be 1 or more, got 0"),
        (["--weights", "w", "--data", "d", "--workers", "-1"], "--workers must be 0 or more, got -1"),
    ],
)
def test_wrong_usage_is_exit_status_two(args, message, capsys):
    assert main(["evaluate", *args]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"--data": "nowhere"}, "data folder nowhere does not exist"),
        ({"--data": "nowhere.yaml"}, "config file nowhere.yaml does not exist"),
        ({"--device": "abacus"}, "--device must be auto, cpu, cuda, cuda:N or mps, got 'abacus'"),
        ({"--image-size": "16"}, "--image-size must be one or two sides of at least 32 pixels, got 16"),
        ({"--score-threshold": "2"}, "score_threshold must lie in [0, 1], got 2.0"),
        ({"--sigma": "0"}, "sigma must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_status_one(demo_root, weights, change, message, capsys):
    given = {"--weights": str(weights), "--data": str(demo_root), "--workers": "0", **change}
    assert main(["evaluate", *(text for pair in given.items() for text in pair)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_wrong_config_is_exit_status_two(weights, tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text("data: {rot: x}")
    assert main(["evaluate", "--weights", str(weights), "--data", str(tmp_path / "wrong.yaml")]) == 2
    assert "unknown key 'rot'; did you mean 'root'?" in capsys.readouterr().err


def test_wrong_files_are_one_sentence_and_exit_status_one(tmp_path, capsys):
    (tmp_path / "broken.json").write_text("[{")
    args = ["--annotations", str(tmp_path / "broken.json"), "--predictions", str(tmp_path / "broken.json")]
    assert main(["evaluate", *args]) == 1
    assert "broken.json: is not valid JSON" in capsys.readouterr().err


def test_the_test_split_is_evaluated_too(demo_root, weights, seer, tmp_path, capsys):
    data = tmp_path / "three parts"
    shutil.copytree(demo_root, data)
    shutil.copy(data / "train.json", data / "test.json")
    args = ["--weights", str(weights), "--data", str(data), "--workers", "0", "--split", "test"]
    assert main(["evaluate", *args]) == 0
    assert "16 images in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.clear(), "no image has a box"),
        (lambda rows: [row.update(iscrowd=1) for row in rows], "every box is a crowd"),
    ],
)
def test_a_split_without_boxes_is_one_sentence(demo_root, weights, tmp_path, capsys, change, message):
    data = renumbered(demo_root, tmp_path / "other", lambda content: change(content["annotations"]))
    assert main(["evaluate", "--weights", str(weights), "--data", str(data), "--workers", "0"]) == 1
    (tmp_path / "none.json").write_text("[]")
    args = ["--predictions", str(tmp_path / "none.json"), "--annotations", str(data / "val.json")]
    assert main(["evaluate", *args]) == 1
    captured = capsys.readouterr()
    assert captured.err.count(message) == 2
    assert captured.out == ""


def test_results_may_go_to_stdout(demo_root, weights, seer, capsys):
    args = ["--weights", str(weights), "--data", str(demo_root), "--workers", "0", "--save-results", "-"]
    assert main(["evaluate", *args]) == 0
    captured = capsys.readouterr()
    boxes = json.loads((demo_root / "val.json").read_text())["annotations"]
    assert len(json.loads(captured.out)) == len(boxes)
    assert read_numbers(captured.err)[0] == 1


@pytest.mark.parametrize("output", [["--json", "-"], []])
def test_output_survives_a_terminal_that_is_not_utf_8(tmp_path, output):
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "größe"}, {"id": 2, "name": "红细胞"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "none.json").write_text("[]")
    args = ["--predictions", str(tmp_path / "none.json"), "--annotations", str(tmp_path / "truth.json"), *output]
    command = [sys.executable, "-m", "effdet", "evaluate", *args]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    if output:
        assert list(json.loads(done.stdout)["per_class"]) == ["größe", "红细胞"]
    else:
        assert rb"gr\xf6\xdfe  0.0000" in done.stdout


def test_a_terminal_gets_a_table_with_names_as_they_are():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "[red] cell"}, {"id": 2, "name": "none"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    terminal = Terminal()
    print_metrics(evaluate_coco(truth, []), terminal)
    assert "AP by class" in terminal.getvalue()
    assert "[red] cell" in terminal.getvalue()
