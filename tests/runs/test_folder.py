import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effdet.config import Config, RunConfig, TrainConfig, load_config
from effdet.runs.folder import changed_settings, create_run_folder, find_run_folder, new_run_folder, newest_run


def test_a_name_in_use_gets_a_number(tmp_path):
    names = [create_run_folder(tmp_path / "runs", "demo").name for _ in range(3)]
    assert names == ["demo", "demo-2", "demo-3"]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_run_folder(tmp_path, "demo"), range(24)))
    assert len(set(folders)) == 24


def test_the_newest_run_of_a_name_is_the_one_written_last(tmp_path):
    for age, name in [(3, "demo"), (1, "demo-2"), (2, "demo-3"), (0, "demo-other"), (0, "demo2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
        os.utime(tmp_path / name / "last.ckpt", (1000 - age, 1000 - age))
    (tmp_path / "demo-4").mkdir()  # has no checkpoint
    assert newest_run(tmp_path, "demo").name == "demo-2"


def test_a_name_that_never_ran_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run named 'demo' to resume in .*; start it without --resume"):
        newest_run(tmp_path, "demo")


def test_a_new_run_folder_holds_the_config(tmp_path):
    config = Config(run=RunConfig(dir=str(tmp_path), name="demo"), train=TrainConfig(epochs=7))
    folders = [new_run_folder(config) for _ in range(2)]
    assert [folder.name for folder in folders] == ["demo", "demo-2"]
    assert load_config(folders[1] / "config.yaml") == config


def test_changed_settings_are_named_with_both_values(tmp_path):
    config = Config(run=RunConfig(dir=str(tmp_path), name="demo"), train=TrainConfig(epochs=7))
    folder = new_run_folder(config)
    assert changed_settings(folder, config) == []
    other = load_config(folder / "config.yaml", ["train.epochs=9", "data.image_size=[96,128]", "train.box_loss=giou"])
    assert set(changed_settings(folder, other)) == {
        "train.epochs: 7 → 9",
        f"data.image_size: {config.data.image_size} → [96, 128]",
        f"train.box_loss: {config.train.box_loss.value} → giou",
    }
    (folder / "config.yaml").unlink()
    assert changed_settings(folder, other) == []


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = new_run_folder(Config(run=RunConfig(dir="~/runs", name="demo")))
    assert folder == tmp_path / "runs" / "demo"
    (folder / "last.ckpt").touch()
    assert newest_run(Path("~/runs"), "demo") == folder


def test_a_run_is_found_by_its_folder_or_its_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must name a run folder with a last\.ckpt, got .*"):
        find_run_folder(tmp_path)
    (tmp_path / "last.ckpt").touch()
    assert find_run_folder(tmp_path) == find_run_folder(tmp_path / "last.ckpt") == tmp_path
