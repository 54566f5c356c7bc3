"""Tests of effdet/metrics_table.py."""

import pytest

from effdet.metrics_table import read_metrics


def test_what_was_not_measured_is_none(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,ap,ap_small\n1,2.5,,\n2,nan,0.25,-1\n3,inf,0,0.5,7\n4,1.5")
    assert read_metrics(path) == [
        {"epoch": 1, "loss": 2.5, "ap": None, "ap_small": None},
        {"epoch": 2, "loss": None, "ap": 0.25, "ap_small": None},
        {"epoch": 3, "loss": None, "ap": 0, "ap_small": 0.5},
        {"epoch": 4, "loss": 1.5, "ap": None, "ap_small": None},
    ]


def test_a_table_of_no_epoch_has_no_rows(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss\n")
    assert read_metrics(str(tmp_path / "metrics.csv")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "metrics.csv: must have a column 'epoch', got no header"),
        ("loss,ap\n1,2\n", "metrics.csv: must have a column 'epoch', got loss, ap"),
        ("epoch,loss\n1,much\n", "metrics.csv: column loss must hold numbers, got 'much'"),
    ],
)
def test_a_table_that_cannot_be_is_named(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metrics(tmp_path / "metrics.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics file .*metrics.csv does not exist"):
        read_metrics(tmp_path / "metrics.csv")
