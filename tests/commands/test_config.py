import json
from pathlib import Path

import pytest

from effdet import load_config
from effdet.commands import main
from effdet.packaged_configs import packaged_configs
from effdet.runs.config_keys import keys_as_markdown, keys_as_text, keys_as_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["custom", "lite0_coco"])
def test_the_file_is_printed_as_it_is(capsys, name):
    assert main(["config", name]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / f"{name}.yaml").read_text()


def test_settings_replace_those_of_the_file(capsys, tmp_path):
    assert main(["config", "custom", "model.phi=1.5", "data.root=photos"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    overrides = ["model.phi=1.5", "data.root=photos", "run.name=mine"]
    assert load_config(tmp_path / "mine.yaml") == load_config("custom", overrides)
    assert "label_smoothing" not in (tmp_path / "mine.yaml").read_text()  # which neither sets


def test_a_wrong_setting_is_refused(capsys):
    assert main(["config", "custom", "model.name=d1", "model.phi=1.5"]) == 2
    assert "model.name must be null where model.phi is set, got d1" in capsys.readouterr().err


def test_without_a_name_the_keys_and_the_names_are_listed(capsys):
    assert main(["config"]) == 0
    keys, names = capsys.readouterr().out.split("Configs that come with the package; effdet config NAME prints one:\n")
    assert keys.strip() == keys_as_text().strip()
    assert names.split() == list(packaged_configs())


def test_every_key_is_printed_as_yaml_markdown_or_json(capsys, tmp_path):
    assert main(["config", "--yaml"]) == 0
    assert capsys.readouterr().out == keys_as_yaml()
    assert main(["config", "--markdown"]) == 0
    assert capsys.readouterr().out == keys_as_markdown()
    assert main(["config", "custom", "train.lr=0.5", "--yaml"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "mine.yaml") == load_config("custom", ["train.lr=0.5"])
    assert main(["config", "custom", "train.lr=0.5", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["train.lr"]["default"], rows["train.lr"]["kind"]) == (0.5, "a number")


def test_two_forms_at_once_are_refused(capsys):
    assert main(["config", "--yaml", "--json"]) == 2
    assert "argument --json: not allowed with argument --yaml" in capsys.readouterr().err


def test_an_unknown_name_is_one_sentence_with_all_names(capsys):
    assert main(["config", "custm"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "effdet config: error: a config must be a file or the name of a packaged config, got 'custm'"
    )
    assert error.endswith("lite4_coco\n")
