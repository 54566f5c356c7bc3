"""The blocks of each page run one after the other, as a reader runs them; long commands are made short.

``tools/site_pages/shortened.py`` says how. Blocks with the comment ``<!-- not run: WHY -->`` before them are left out.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import effdet
from effdet import load_config
from effdet.adaptation.search import search
from effdet.adaptation.search.search import SearchSettings
from effdet.commands import main
from effdet.data.demo import draw_demo
from site_pages import blocks, shortened
from tests.checkpoints_on_pages import D0, write_checkpoints

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in blocks.PAGES if any(b.language in ("bash", "sh") or b.is_slow for b in blocks.blocks(page))]
IN_EVERY_RUN = {"docs/start/install.md"}  # the other pages take minutes together: `make test-sweeps`

# What earlier pages have made, for those that go on from there.
RUNS = {
    "README.md": ["demo"],
    "docs/how-to/deployment.md": ["demo"],
    "docs/how-to/large_images.md": ["blood"],
    "docs/how-to/report.md": ["blood", "first", "second"],
    "docs/how-to/training.md": ["custom-2", "lite2"],
    "docs/how-to/edge.md": [],
    "docs/how-to/large_sets.md": [],
    "docs/how-to/python.md": ["custom", "demo"],
    "docs/reference/api/export.md": ["custom"],
    "docs/reference/api/training.md": [],
    "docs/explanations/presets.md": ["bccd"],
    "docs/measurements/performance.md": ["demo"],
    "docs/migration/pypi_effdet.md": ["blood"],
    "docs/reference/checkpoints.md": ["blood"],
}

NOT_DIVIDED = {  # data without a part to validate on, as the page has it at first
    "README.md": "data/custom",
    "docs/start/first_data_set.md": "data/custom",
    "docs/how-to/your_data.md": "photos",
}


def run(code, folder):
    """Run a block of bash: our commands in this process, anything else in bash with the short commands on its path.

    Exports and measurements run in bash, too: each in a process of its own.
    """
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        words = shlex.split(line, comments=True)
        words = ["effdet", Path(words[1]).stem, *words[2:]] if is_a_tool(words) else words
        alone = words[1:2] in (["export"], ["benchmark"]) or set("><|&$") & set(line.partition(" #")[0])
        if words[:1] == ["effdet"] and not alone:
            arguments = shortened.less_work(words[1], words[2:])
            assert main([words[1], *arguments]) == 0, line
        elif words:
            run_in_bash(line, folder)


def is_a_tool(words):
    return words[:1] == ["python"] and (ROOT / words[1]).is_file() and Path(words[1]).parent.name == "tools"


def run_in_bash(line, folder):
    path = f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(["bash", "-euc", line], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def repeated(source, target, count):
    """Write a COCO data set whose training part has ``count`` images: int8 is calibrated with 100 or more."""
    (target / "images").mkdir(parents=True)
    for part in ("train", "val"):
        content = json.loads((source / f"{part}.json").read_text())
        copies = range(count // len(content["images"]) + 1 if part == "train" else 1)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        images, boxes = content["images"], content["annotations"]
        content["images"] = [
            {**each, "id": 10_000 * copy + each["id"], "file_name": f"{copy}_{each['file_name']}"}
            for copy in copies
            for each in images
        ]
        content["annotations"] = [
            {**each, "id": number, "image_id": 10_000 * copy + each["image_id"]}
            for number, (copy, each) in enumerate(((copy, each) for copy in copies for each in boxes), start=1)
        ]
        for copy in copies:
            for name in names.values():
                shutil.copy(source / "images" / name, target / "images" / f"{copy}_{name}")
        (target / f"{part}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, photo_sets):
    """A folder ``work`` with what the pages name, and a folder ``bin`` with programs that make our commands short."""
    folder = tmp_path_factory.mktemp("pages")
    work = folder / "work"
    (folder / "bin").mkdir()
    for name in ("python", "effdet", "torchrun"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{shortened.__file__}" {name} "$@"\n')
        script.chmod(0o755)
    repeated(photo_sets / "bccd", folder / "shared" / "data" / "bccd", count=150)
    for name in ("data/custom", "data/coco", "photos", "slides", "bccd", "../shared/data/microcontroller"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder / "shared" / "data" / "bccd", work / name)
    shutil.copy(work / "photos" / "val.json", work / "photos" / "test.json")
    for photo in (work / "photos" / "images").iterdir():
        photo.rename(work / "photos" / photo.name)  # some pages take the folder for photos, some for a data set
    four_channels(photo_sets / "bccd", work / "scans")
    for name in ("photo.jpg", "slide.png"):
        Image.open(photo_sets / "bccd" / "images" / "BloodImage_00000.jpg").save(work / name)
    write_checkpoints(work)
    draw_demo(work / "data" / "demo", num_train=104, num_val=2)
    for name in ("tools", "configs", "tests", "setup.cfg"):
        (work / name).symlink_to(ROOT / name)
    return folder


def four_channels(source, target):
    """Write a small data set of images with four channels."""
    shutil.copytree(source, target)
    for file in (target / "images").iterdir():
        photo = Image.open(file)
        photo.putalpha(photo.convert("L"))
        photo.save(file.with_suffix(".png"))
        file.unlink()
    for part in ("train", "val"):
        text = (target / f"{part}.json").read_text()
        (target / f"{part}.json").write_text(text.replace(".jpg", ".png"))


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """Short runs of the configs ``custom`` and ``demo``, an export of the first, and what it detects."""
    work = prepared / "work"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        run("effdet train custom run.name=a_run\neffdet train demo run.name=a_demo", work)
        run("effdet export --weights runs/a_run/best.safetensors --out runs/best.onnx", work)
        run("effdet evaluate --weights runs/best.onnx --data photos --save-results runs/results.json", work)
    return shutil.move(work / "runs", tmp_path_factory.mktemp("runs") / "runs")


@pytest.fixture
def folder(request, prepared, tmp_path, monkeypatch):
    """A copy of the prepared folder for one page, with the files that earlier pages have made."""
    from effdet.weights import sources

    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True, symlinks=True)
    page, work = blocks.name(request.getfixturevalue("page")), tmp_path / "work"
    if page in NOT_DIVIDED:
        for part in ("val", "test"):
            (work / NOT_DIVIDED[page] / f"{part}.json").unlink(missing_ok=True)
    if page in RUNS:
        give_files_of_runs(request.getfixturevalue("trained"), RUNS[page], work)
    monkeypatch.setattr(sources, "local_file", lambda file: work / D0)  # in place of the download
    monkeypatch.setattr(effdet, "load_config", shorter_config)
    monkeypatch.setattr(search, "SearchSettings", shorter_search)
    monkeypatch.chdir(work)
    return work


def shorter_config(name, overrides=()):
    """Stand for ``effdet.load_config`` in Python blocks, with the settings of a short training."""
    return load_config(name, shortened.less_work("train", [str(name), *overrides])[1:])


def shorter_search(**settings):
    """Stand for ``SearchSettings`` in Python blocks: two trials of a few images."""
    return SearchSettings(**{**settings, "trials": 2, "images": 4})


def give_files_of_runs(trained, runs, work):
    for name in runs:
        shutil.copytree(trained / ("a_demo" if name == "demo" else "a_run"), work / "runs" / name)
    for name in ("best.safetensors", "blood.safetensors"):
        shutil.copy(trained / "a_run" / "best.safetensors", work / name)
    for name in ("best.onnx", "results.json"):
        shutil.copy(trained / name, work)
    shutil.copy(work / "photos" / "val.json", work)


def with_marks(page):
    name = blocks.name(page)
    return pytest.param(page, id=name, marks=[] if name in IN_EVERY_RUN else [pytest.mark.sweep, pytest.mark.slow])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [with_marks(page) for page in PAGES])
def test_the_blocks_of_a_page_run_one_after_the_other(page, folder):
    names = {}
    for block in blocks.blocks(page):
        if block.not_run or block.language not in blocks.RUN:
            continue
        if block.language == "python":
            exec(compile(block.code, f"{page}:{block.line}", "exec"), names)
        elif block.language == "bash":
            run(block.code, folder)
