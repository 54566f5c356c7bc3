import json

import pytest

from effdet.commands import main

CONFIG = """
model: {{name: lite0, architecture: {{channels: 8, neck_repeats: 1, head_repeats: 1}}}}
data: {{root: {root}, image_size: [64, 64], max_val_images: 2, workers: 0}}
train: {{batch_size: 4, optimizer: adamw, lr: 0.004}}
run: {{device: cpu, threads: 1, report: false}}
"""


@pytest.fixture
def config(tmp_path, demo_root):
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(root=demo_root))
    return str(file)


def test_the_pareto_front_is_printed_and_written_as_json(config, tmp_path, capsys):
    pytest.importorskip("optuna")
    out, file = tmp_path / "out", tmp_path / "front.json"
    words = ["search", config, "--out", str(out), "--target-macs", "2e7", "--free", "channels=8,16", "--images", "8"]
    assert main([*words, "--trials", "1", "--exponents", "0", "-1", "--json", str(file), "train.lr=0.001"]) == 0
    title, _, row, advice = capsys.readouterr().out.splitlines()
    assert title == "1 trials, 1 finished; the Pareto front:"
    assert row.endswith("best")
    assert advice == f"train the best in full: effdet train {out / 'best.yaml'}"
    front = json.loads(file.read_text())
    assert (front["unit"], front["target"], front["exponents"], front["best"]) == ("MACs", 2e7, [0, -1], 0)
    assert "lr: 0.001" in (out / "best.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "one of the arguments --target-ms --target-macs is required"),
        (["--target-macs", "-1"], 1, "the target of a search must be a positive number, got -1.0"),
        (["--target-macs", "1e9", "--runtime", "onnxruntime"], 1, "--runtime and --threads go with --target-ms"),
        (["--target-macs", "1e9", "--threads", "2"], 1, "--runtime and --threads go with --target-ms"),
        (["--target-macs", "1e9", "--exponents", "1", "0"], 1, "the exponent alpha must be 0 or negative"),
        (["--target-macs", "1e9", "--free", "chanels=3"], 2, "unknown dimension 'chanels'; did you mean 'channels'?"),
        (["--target-macs", "1e9", "--free", "channels=x"], 2, "search space: channels must be a whole number, got 'x'"),
        (["--target-macs", "1e9", "--space", "no.yaml"], 1, "search space no.yaml must be a file or one of detector"),
        (["--target-macs", "1e9", "--trials", "0"], 1, "trials must be 1 or more, got 0"),
        (["--target-macs", "1e9", "data.root=nowhere"], 1, "nowhere"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(config, tmp_path, capsys, options, status, message):
    pytest.importorskip("optuna")
    assert main(["search", config, "--out", str(tmp_path / "out"), *options]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
