"""The room plan as a test: who may import whom, and what no file of the project may contain."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "effdet"

# From the ground up: a room may import those before it.
FLOORS = (
    "atomic_write",
    "cache",
    "structures",
    "install",
    "packaged_configs",
    "config",
    "progress",
    "download",
    "fonts",
    "metrics_table",
    "visualize",
    "ops",
    "images",
    "data",
    "evaluation",
    "report",
    "models",
    "kernels",
    "weights",
    "training",
    "detector",
    "deployment",
    "runs",
    "adaptation",
    "commands",
    "__main__",
)

# Doors in the wall: (importing file, imported module).
EXCEPTIONS = {
    ("structures.py", "visualize"),  # Detections.draw, when it is called
}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
TOOLS = sorted((ROOT / "tools").glob("*.py"))


def imported_modules(node: ast.AST) -> set[str]:
    """Return the dotted names, without ``effdet.``, of what is imported anywhere inside a piece of code."""
    found = set()
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "imports are written in full: from effdet.ops.boxes import …"
            module = statement.module or ""
            # "from effdet.training import losses" names the module effdet.training.losses.
            names = {f"{module}.{alias.name}" for alias in statement.names}
            found |= {name if is_module(name) else module for name in names}
    return {name.removeprefix("effdet").removeprefix(".") for name in found if name.split(".")[0] == "effdet"}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_neighbours(path):
    name = path.relative_to(PACKAGE).as_posix()
    room = name.split("/")[0].removesuffix(".py")
    modules = {module for module in imported_modules(parse(path)) if (name, module) not in EXCEPTIONS}
    assert room in FLOORS, f"{room} is not in the plan; decide on which floor it stands"
    if room != "commands":
        assert "" not in modules, "the front door is for users; import from the room"
    below = {*FLOORS[: FLOORS.index(room) + 1], "" if room == "commands" else room}
    strangers = {module for module in modules if room_of(module) not in below}
    assert not strangers, f"{room} must not know {sorted(strangers)}"


def test_the_pages_list_the_rooms_from_the_ground_up():
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| room |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert [room for row in rows for room in re.findall(r"`(\w+)`", row)] == [*FLOORS[:-1]]

    tour = (ROOT / "docs" / "explanations" / "tour.md").read_text(encoding="utf-8")
    folders = [room for room in FLOORS if (PACKAGE / room).is_dir()]
    assert [room for room in folders if f"`{room}/" not in tour] == []


def test_structures_opens_the_drawing_room_only_when_somebody_draws():
    tree = parse(PACKAGE / "structures.py")
    draw = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "draw")
    assert imported_modules(draw) == imported_modules(tree) == {"visualize"}


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_tools_are_thin(path):
    assert {room_of(module) for module in imported_modules(parse(path))} <= {"commands"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30


def test_the_checker_sees_every_form_of_import():
    code = """
import effdet.data.coco
from effdet.ops.boxes import decode
from effdet.ops import nms
from effdet import visualize, load_config
import torch
def late():
    from effdet.config import Config
"""
    assert imported_modules(ast.parse(code)) == {"data.coco", "ops.boxes", "ops.nms", "visualize", "", "config"}


# -- no file names a place on somebody's machine ---------------------------------------------------------------------

MACHINE_PATH = re.compile(
    r"(?<![\w.~$}])/(?:home|root|work|workspace|Users|mnt|opt|srv|tmp|private)/\w|\b[A-Z]:\\\\?\w"
)
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".txt", ".json", ".sh", ".in", ""}
NOT_OURS = {"data", "runs", "build", "dist", "__pycache__", "node_modules"}


def project_files() -> list[Path]:
    """Return text files of the project, without hidden folders (but with .ci) and what commands leave behind."""
    tops = [path for path in ROOT.iterdir() if path.name == ".ci" or path.name[0] != "."]
    tops = [path for path in tops if path.name not in NOT_OURS and path.suffix != ".egg-info"]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
    return [file for file in files if file.suffix in TEXT and "__pycache__" not in file.parts]


def test_no_file_names_an_absolute_path_of_a_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "write paths relative to the project:\n" + "\n".join(found)


@pytest.mark.parametrize("parts", [("home", "ann", "x"), ("work", "x"), ("tmp", "runs"), ("Users", "ann")])
def test_the_search_finds_machine_paths(parts):
    assert MACHINE_PATH.search("data: /" + "/".join(parts))
    assert MACHINE_PATH.search("'/" + "/".join(parts) + "'")
    assert not MACHINE_PATH.search("https://example.org/" + "/".join(parts))
    assert not MACHINE_PATH.search("~/" + "/".join(parts))


# -- PyPI's effdet is another project ----------------------------------------------------------------------------------

OTHER_PROJECT = re.compile(r"\beffdet\[\w|pip install (?:-\S+ )*['\"]?effdet(?![-=\w])")


def test_no_file_installs_the_other_project_that_is_called_effdet():
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in project_files()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if OTHER_PROJECT.search(line) and "OTHER_PROJECT" not in line
    ]
    assert not found, "the distribution is efficientdet-toolkit; effdet.install.hint makes the command:\n" + "\n".join(
        found
    )


def test_the_search_finds_the_other_project():
    name = "effdet"
    assert OTHER_PROJECT.search(f"pip install {name}")
    assert OTHER_PROJECT.search(f"pip install -U '{name}'")
    assert OTHER_PROJECT.search(f"pip install '{name}[deploy]'")
    assert not OTHER_PROJECT.search("pip install 'efficientdet-toolkit[deploy]'")
    assert not OTHER_PROJECT.search(f"pip install --no-deps {name}==0.4.1")
