"""Tests of effdet/runs/report_facts.py; test_report.py has whole reports."""

from dataclasses import replace

import pytest

from effdet.config import load_config
from effdet.deployment.description import Description
from effdet.deployment.detector import DeployedDetector
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.data import read_data
from effdet.runs.report_facts import anchor_recall, history_of_run


def test_an_exported_file_has_the_anchor_recall_of_its_model(tmp_path, demo_root):
    (tmp_path / "c.yaml").write_text(f"data: {{root: '{demo_root}'}}\n")
    val = read_data(load_config(tmp_path / "c.yaml").data)[1]
    model = EfficientDet("lite0", val.num_classes, image_size=(64, 96))
    described = Description(
        architecture=model.architecture,
        class_names=val.class_names,
        category_ids=val.category_ids,
        image_size=(64, 96),
        mean=model.architecture.mean,
        std=model.architecture.std,
        preprocessing=model.preprocessing,
        settings=model.settings,
    )
    recall = anchor_recall(DeployedDetector(described, runtime=None), val)
    assert recall == anchor_recall(model, val)
    assert sum(boxes for _, _, boxes, _ in recall) > 0
    assert anchor_recall(DeployedDetector(replace(described, architecture=None), runtime=None), val) == ()


def test_a_run_without_a_table_has_no_history_and_a_damaged_one_is_an_error(tmp_path):
    assert history_of_run(tmp_path) == []
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2.5\n")
    assert history_of_run(tmp_path) == [{"epoch": 1, "loss": 2.5}]
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,?\n")
    with pytest.raises(ValueError, match="column loss must hold numbers"):
        history_of_run(tmp_path)
