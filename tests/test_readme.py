"""What README and docs tell people to type: Python blocks run, commands are understood, linked files exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands():
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}")


def test_python_blocks_of_the_readme_run_one_after_the_other(tmp_path, monkeypatch):
    from effdet import EfficientDet
    from effdet.weights import sources
    from effdet.weights.effdet import to_effdet

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = EfficientDet("lite0", 2, image_size=(64, 64), class_names=["cat", "dog"])
    model.save_pretrained("runs/custom/best.safetensors")
    Image.new("RGB", (80, 60)).save("photo.jpg")
    published = EfficientDet("tf_efficientdet_lite0", 90).network.state_dict()
    torch.save(to_effdet(published, "tf_efficientdet_lite0"), "tf_efficientdet_lite0.pth")
    published = EfficientDet("tf_efficientdet_d0", 90).network.state_dict()
    torch.save(to_effdet(published, "tf_efficientdet_d0"), "d0_34.pth")
    monkeypatch.setattr(sources, "local_file", lambda file: Path("d0_34.pth"))  # in place of the download
    names = {}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    assert set(names["losses"]) == {"class_loss", "box_loss"}
    assert set(names["detections"][0]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("words", list(commands()))
def test_commands_in_the_pages_are_understood(words):
    words = [word for word in words if "=" not in word or not word.isupper()]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    if words[0] == "torchrun":
        words = ["python", *words[next(i for i, word in enumerate(words) if word.startswith("tools/")) :]]
    if words[0] == "effdet":
        words = ["python", f"tools/{words[1]}.py", *words[2:]]
        words = words[: words.index(">")] if ">" in words else words
    if words[:1] != ["python"]:
        assert words[0] in ("pip", "git", "cd")
        return
    assert (ROOT / words[1]).is_file()
    name = words[1].removeprefix("tools/").removesuffix(".py")
    races = name == "benchmark" and words[2] in importlib.import_module("benchmark.command").MEASUREMENTS
    importlib.import_module("benchmark.command" if races else f"effdet.commands.{name}").parser().parse_args(words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
