"""All keys of a config are told from its source."""

from dataclasses import fields, is_dataclass

import pytest
import yaml

from effdet.config import Config, load_config
from effdet.runs.config_keys import config_keys, field_comments, keys_as_markdown, keys_as_text, keys_as_yaml


def names_of(section, prefix=""):
    for item in fields(section):
        value = getattr(section, item.name)
        yield from names_of(value, f"{prefix}{item.name}.") if is_dataclass(value) else [f"{prefix}{item.name}"]


def test_every_key_is_there_once_and_has_a_meaning():
    keys = config_keys()
    assert sorted(key.name for key in keys) == sorted(names_of(Config()))
    assert [key.name for key in keys if not key.meaning] == []


def test_defaults_types_and_meanings_are_those_of_the_source():
    keys = {key.name: key for key in config_keys()}
    rate = keys["train.weight_decay"]
    assert (rate.kind, rate.default, rate.meaning) == ("a number", 4e-5, "on convolution kernels only")
    assert keys["data.augment.scale"].default == [0.1, 2.0]
    assert keys["data.augment.scale"].kind == "two numbers [a, b]"
    assert keys["train.box_loss"].default == "huber"
    assert keys["train.box_loss"].kind == "one of huber, iou, giou, diou, ciou"
    assert keys["model.architecture.neck"].kind == "one of bifpn, fpn, pan, nas_fpn, full, quad or null"
    assert keys["model.architecture.head_channels"].meaning == "width of these convolutions; null: that of the neck"
    assert keys["data.tiles"].kind == ""  # its meaning says it


def test_values_of_a_config_stand_in_place_of_the_defaults():
    keys = {key.name: key for key in config_keys(load_config("custom", ["train.lr=0.25"]))}
    assert (keys["train.lr"].default, keys["data.long_side"].default) == (0.25, 416)


@pytest.mark.parametrize("config", [None, load_config("custom", ["data.tiles=[640,480]"]), load_config("d7x_coco")])
def test_the_yaml_is_a_config_file_with_every_key(tmp_path, config):
    text = keys_as_yaml(config)
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    name = [] if config is not None else ["run.name=all"]
    assert load_config(tmp_path / "all.yaml", name) == (config or load_config(tmp_path / "all.yaml"))
    plain = yaml.safe_load(text)
    assert plain["train"]["clip_norm"] == 10.0
    assert plain["data"]["augment"]["horizontal_flip"] == 0.5
    assert "weight_decay: 4.0e-05  # on convolution kernels only" in keys_as_yaml()


def test_the_default_yaml_has_the_default_values(tmp_path):
    (tmp_path / "all.yaml").write_text(keys_as_yaml(), encoding="utf-8")
    (tmp_path / "empty.yaml").write_text("run: {name: all}")
    assert load_config(tmp_path / "all.yaml") == load_config(tmp_path / "empty.yaml")


def test_a_table_of_markdown_has_a_row_for_each_key():
    text = keys_as_markdown()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(config_keys())
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    assert [line for line in text.splitlines() if line.startswith("## ")][:3] == [
        "## model",
        "## model.architecture",
        "## data",
    ]


def test_the_text_has_two_lines_for_a_key():
    text = keys_as_text()
    assert "train.weight_decay = 4.0e-05  (a number)\n    on convolution kernels only\n" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("    ")) <= 100


def test_a_hash_in_a_default_is_no_comment():
    assert all("=" not in comment[:2] for comment in field_comments(type(Config().train)).values())
