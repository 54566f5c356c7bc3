import pytest

from effdet import EfficientDet
from effdet.commands import main


def test_a_target_that_is_reached_already_is_refused(photo_sets, tmp_path, capsys):
    weights = tmp_path / "blood.safetensors"
    EfficientDet("lite0", 3, image_size=64).save_pretrained(weights)
    options = ["--weights", str(weights), "--data", str(photo_sets / "bccd"), "--out", str(tmp_path / "adapted")]
    assert main(["adapt", *options, "--target-ms", "1e6", "--runtime", "torch", "data.workers=0"]) == 1
    assert "target_ms must be less than the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: --weights, --target-ms"),
        (["--weights", "w", "--target-ms", "1", "--runtime", "abacus"], "invalid choice: 'abacus'"),
    ],
)
def test_a_wrong_command_line_is_usage(options, message, capsys):
    assert main(["adapt", *options]) == 2
    assert message in capsys.readouterr().err


def test_weights_that_do_not_exist_are_named(photo_sets, tmp_path, capsys):
    options = ["--weights", str(tmp_path / "none.safetensors"), "--data", str(photo_sets / "bccd")]
    assert main(["adapt", *options, "--target-ms", "1"]) == 1
    assert "none.safetensors" in capsys.readouterr().err
