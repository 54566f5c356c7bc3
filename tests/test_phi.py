"""A detector between two published ones goes through all commands, from a config that says its phi."""

import json

import pytest

from effdet import Architecture, EfficientDet
from effdet.commands import main


@pytest.mark.slow
def test_a_phi_is_trained_evaluated_and_exported_by_the_commands(demo_root, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    overrides = [
        "model.phi=0.3", "model.backbone_weights=null", "train.freeze=none", "train.freeze_bn=false",
        f"data.root={demo_root}", "data.long_side=null", "data.max_long_side=null", "data.image_size=[64,64]",
        "data.max_train_images=4", "data.max_val_images=2", "data.workers=0", "train.batch_size=2", "train.epochs=1",
        f"run.dir={tmp_path}", "run.report=false",
    ]  # fmt: skip
    assert main(["config", "custom", *overrides]) == 0
    config = tmp_path / "mine.yaml"
    config.write_text(capsys.readouterr().out)
    assert main(["train", str(config)]) == 0
    weights = tmp_path / "mine" / "best.safetensors"
    expected = Architecture.from_phi(0.3)
    assert EfficientDet.from_pretrained(weights).architecture == expected
    assert len(expected.backbone_blocks[0]) == 2  # one more than in B0

    scores = tmp_path / "scores.json"
    assert main(["evaluate", "--weights", str(weights), "--data", str(config), "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())
    assert main(["export", "--weights", str(weights), "--format", "onnx"]) == 0
    assert weights.with_suffix(".onnx").is_file()
