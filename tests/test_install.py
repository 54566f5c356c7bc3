import ast
import configparser
import re
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


def test_every_import_of_the_package_is_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    declared = {re.split(r"[>=<]", line)[0].replace("-", "_") for text in texts for line in text.split("\n")}
    declared.add("triton")  # comes with PyTorch for CUDA on Linux, and is asked for only where it is there
    called = {"cv2": "opencv_python_headless", "PIL": "pillow", "yaml": "pyyaml", "mlflow": "mlflow_skinny"}
    for path in (ROOT / "effdet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names} - {"effdet"} - sys.stdlib_module_names
            missing = {top for top in tops if called.get(top, top) not in declared}
            assert not missing, f"{path.relative_to(ROOT)} imports {sorted(missing)}, which setup.cfg does not declare"
