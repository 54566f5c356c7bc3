import configparser
import subprocess
import sys
from pathlib import Path

from effdet.install import DISTRIBUTION, hint

ROOT = Path(__file__).resolve().parents[1]


def test_in_a_clone_the_hint_installs_the_clone():
    assert hint("deploy") == "pip install -e '.[deploy]'"


def test_an_installed_copy_names_the_distribution(tmp_path):
    package = tmp_path / "effdet"
    package.mkdir()
    for name in ("__init__.py", "install.py"):
        (package / name).write_bytes((ROOT / "effdet" / name).read_bytes())
    code = "from effdet.install import hint; print(hint('video'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "pip install 'efficientdet-toolkit[video]'\n"


def test_the_distribution_takes_name_and_version_from_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["name"] == DISTRIBUTION
    assert setup["metadata"]["version"] == "attr: effdet.__version__"
