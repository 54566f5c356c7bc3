import subprocess
import sys
from pathlib import Path

import pytest

from effdet.config import load_config
from effdet.packaged_configs import find_config, packaged_config, packaged_configs

ROOT = Path(__file__).resolve().parents[1]


def test_in_a_clone_the_configs_are_those_of_its_folder():
    assert list(packaged_configs()) == sorted(file.stem for file in (ROOT / "configs").iterdir())


def test_an_installed_copy_reads_the_configs_in_its_package(tmp_path):
    package = tmp_path / "effdet"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "mine.yaml").touch()
    for name in ("__init__.py", "install.py", "packaged_configs.py"):
        (package / name).write_bytes((ROOT / "effdet" / name).read_bytes())
    code = "from effdet.packaged_configs import packaged_configs; print(*packaged_configs().values())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == (package / "configs" / "mine.yaml").resolve()


def test_a_name_means_the_packaged_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("custom", ["data.root=photos"]) == load_config(
        ROOT / "configs" / "custom.yaml", ["data.root=photos"]
    )
    (tmp_path / "d0_coco").mkdir()  # a folder is no config
    assert find_config("d0_coco") == ROOT / "configs" / "d0_coco.yaml"


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "custom").write_text("model: {name: d1}")
    assert load_config("custom").model.name == "d1"


@pytest.mark.parametrize("find", [find_config, packaged_config, load_config])
def test_an_unknown_name_is_answered_with_all_names(tmp_path, monkeypatch, find):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"got 'custm'; the names are custom, d0_coco, d0_coco_modern, .*lite4_coco"
    ):
        find("custm")


@pytest.mark.parametrize("path", ["custom.yaml", "configs/custom", "./custom.yml"])
def test_a_path_is_not_looked_up_in_the_package(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"config file {Path(path)} does not exist"):
        find_config(path)
