"""Tests of effdet/runs/report.py: runs of an untrained model, whose folders are made by hand."""

import json
import logging

import pytest
import torch

from effdet.commands import main
from effdet.config import load_config
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.data import read_data
from effdet.runs.evaluate import evaluate
from effdet.runs.report import compare_runs, report_run, report_training, store_threshold
from effdet.weights.own_format import save_tensors

CPU = torch.device("cpu")


def make_run(folder, root, seed=0):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"model: {{name: lite0}}\ndata: {{root: '{root}', image_size: [64, 64], workers: 0}}\nrun: {{device: cpu}}\n"
    )
    (folder / "metrics.csv").write_text("epoch,step,lr,loss,ap\n1,2,0.1,3.5,\n2,4,0.05,2.5,0.1\n")
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00 started by: tools/train.py x.yaml\n"
        "2026-01-01 10:00:00 effdet 0.2, torch 2.6, Python 3.11; Linux, 2 cores, cpu: 1 threads\n"
    )
    val = read_data(load_config(folder / "config.yaml").data)[1]
    torch.manual_seed(seed)
    model = EfficientDet("lite0", 5, image_size=64, class_names=val.class_names, category_ids=val.category_ids)
    with torch.no_grad():  # scores that differ, so that something is found
        model.network.class_head.output_conv.bias.fill_(-1.0)
    model.eval().save_pretrained(folder / "best.safetensors")
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, demo_root):
    return make_run(tmp_path_factory.mktemp("runs") / "first", demo_root)


def test_a_run_is_reported_on_its_validation_images(run_folder, demo_root, tmp_path):
    report = report_run(run_folder, out=tmp_path, device="cpu")
    numbers = json.loads(report.numbers.read_text())
    model = EfficientDet.from_pretrained(run_folder / "best.safetensors")
    metrics = evaluate(model, demo_root, split="val", workers=0, progress=False)
    assert tuple(v for k, v in numbers["coco"].items() if k != "backend") == pytest.approx(
        tuple(None if v == -1 else v for v in metrics.numbers())
    )
    assert [row["loss"] for row in numbers["history"]] == [3.5, 2.5]
    assert numbers["history"][0]["ap"] is None
    facts = numbers["about"]["facts"]
    assert facts["trained by"] == "tools/train.py x.yaml"
    assert facts["trained with"].startswith("effdet 0.2, torch 2.6")
    assert numbers["about"]["config"].startswith("model:")
    assert sum(row["boxes"] for row in numbers["anchors"]) > 0
    assert 10_000 < report.page.stat().st_size < 5_000_000
    assert len(numbers["worst_images"]) == 8


def test_a_finished_training_has_a_report_and_a_threshold(run_folder, caplog):
    config = load_config(run_folder / "config.yaml")
    best = EfficientDet.from_pretrained(run_folder / "best.safetensors")
    val = read_data(config.data)[1]
    with caplog.at_level(logging.INFO, logger="effdet"):
        report_training(run_folder, best, val, CPU)
    assert f"report: {run_folder / 'report.html'}" in caplog.text
    threshold = json.loads((run_folder / "report.json").read_text())["recommended_threshold"]["threshold"]
    stored = EfficientDet.from_pretrained(run_folder / "best.safetensors")
    assert best.predict_threshold == stored.predict_threshold == threshold
    picture = str(val.path(0))
    assert torch.equal(stored.predict(picture)[0].boxes, stored.predict(picture, score_threshold=threshold)[0].boxes)


def test_the_model_detects_on_the_device_of_the_training_and_stays_where_it_is(run_folder, monkeypatch):
    devices = []
    monkeypatch.setattr(
        "effdet.runs.report.report_model", lambda model, *parts, **options: devices.append(model.device)
    )
    best = EfficientDet.from_pretrained(run_folder / "best.safetensors")
    report_training(run_folder, best, None, torch.device("meta"))  # a device that every machine has
    assert (devices, best.device) == ([torch.device("meta")], CPU)


def test_a_report_that_fails_is_a_line_in_the_log(run_folder, caplog, monkeypatch):
    monkeypatch.setattr("effdet.runs.report.render_report", lambda *parts: 1 / 0)
    best = EfficientDet.from_pretrained(run_folder / "best.safetensors")
    val = read_data(load_config(run_folder / "config.yaml").data)[1]
    report_training(run_folder, best, val, CPU)
    assert "the report could not be written: division by zero" in caplog.text


def test_runs_are_compared(run_folder, demo_root, tmp_path):
    other = make_run(tmp_path / "second", demo_root, seed=1)
    report = compare_runs([run_folder, other], tmp_path / "out", device="cpu")
    numbers = json.loads(report.numbers.read_text())
    assert [one["name"] for one in numbers["candidates"]] == ["first", "second"]
    assert report.page.name == "comparison.html"
    with pytest.raises(ValueError, match="two or more detectors to compare, got 1"):
        compare_runs([run_folder], tmp_path / "out", device="cpu")


def test_the_command_reports_weights_and_results(run_folder, demo_root, tmp_path, capsys):
    weights = str(run_folder / "best.safetensors")
    assert (
        main(["report", "--weights", weights, "--data", str(demo_root), "--workers", "0", "--out", str(tmp_path)]) == 0
    )
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    rows = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 20, 20], "score": 0.5}]
    annotations = next(path for path in demo_root.rglob("*val*.json"))
    rows[0]["image_id"] = json.loads(annotations.read_text())["images"][0]["id"]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    common = ["report", "--predictions", str(tmp_path / "results.json"), "--out", str(tmp_path / "b")]
    assert main([*common, "--annotations", str(annotations)]) == 0
    assert json.loads((tmp_path / "b" / "report.json").read_text())["images"] == 8


def test_a_threshold_is_stored_on_request(run_folder, tmp_path):
    path = tmp_path / "w.safetensors"
    EfficientDet.from_pretrained(run_folder / "best.safetensors").save_pretrained(path)
    store_threshold(path, 0.625)
    assert EfficientDet.from_pretrained(path).predict_threshold == 0.625


def test_a_threshold_is_stored_in_our_own_weights_alone(run_folder, demo_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="is stored in a file of weights, but there is no d0"):
        store_threshold("d0", 0.5)
    model = EfficientDet.from_pretrained(run_folder / "best.safetensors")
    save_tensors(tmp_path / "plain.safetensors", model.state_dict())
    before = (tmp_path / "plain.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match=r"weights that this package wrote \(\.safetensors\), got .*plain\.safetensors"
    ):
        store_threshold(tmp_path / "plain.safetensors", 0.5)
    command = ["report", "--weights", "d0", "--data", str(demo_root), "--store-threshold"]
    assert main(command) == 1  # before published weights are asked for
    assert "there is no d0" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plain.safetensors"]
    assert (tmp_path / "plain.safetensors").read_bytes() == before

    model.save_pretrained(tmp_path / "folder")
    store_threshold(tmp_path / "folder", 0.625)
    assert EfficientDet.from_pretrained(tmp_path / "folder").predict_threshold == 0.625


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs the folder of a run with its config\.yaml, got"):
        report_run(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name one of: folders of runs, --weights with --data"),
        (["runs/a", "--weights", "w"], "name one of"),
        (["--weights", "w"], "--weights needs --data"),
        (["--predictions", "p"], "--predictions needs either --annotations or --data"),
        (["runs/a", "--annotations", "a"], "--annotations goes with --predictions"),
        (["runs/a", "--data", "d"], "a run is reported on its own validation images"),
        (["runs/a", "runs/b", "--store-threshold"], "--store-threshold goes with one run or --weights"),
        (["runs/a", "--max-images", "0"], "--max-images must be 1 or more, got 0"),
        (["runs/a", "--tiles", "64"], "--tiles has no effect on the report of a run, which its config says"),
        (["runs/a", "--split", "test"], "--split has no effect on the report of a run"),
        (["runs/a", "runs/b", "--max-images", "5"], "--max-images has no effect on the report of several runs"),
        (["--predictions", "p", "--data", "d", "--nms", "hard"], "--nms has no effect on the report of a results file"),
        (
            ["--predictions", "p", "--annotations", "a", "--split", "train"],
            "--split has no effect on the report of a res",
        ),
    ],
)
def test_command_lines_that_cannot_be_are_refused(arguments, sentence, capsys):
    assert main(["report", *arguments]) == 2
    assert sentence in capsys.readouterr().err
