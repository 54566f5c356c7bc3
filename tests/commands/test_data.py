import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from effdet.commands import main
from effdet.data.demo import draw_demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(tmp_path):
    draw_demo(tmp_path / "demo", num_train=10, num_val=5, image_size=(96, 128))
    return tmp_path / "demo"


def call(*arguments):
    return main(["data", *map(str, arguments)])


def check(*arguments):
    return call("check", *arguments, "--no-estimate")


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_demo_draws_as_many_images_as_asked(tmp_path, capsys):
    assert call("demo", "--root", tmp_path / "demo", "--train", 3, "--val", 2, "--seed", 5) == 0
    assert len(os.listdir(tmp_path / "demo" / "images")) == 5
    assert call("demo", "--root", tmp_path / "demo", "--train", 3, "--val", 2, "--seed", 5) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "demo: drawn" in err
    assert "demo: is there already" in err


def test_demo_does_not_overwrite_another_data_set(tmp_path, capsys):
    (tmp_path / "val.json").write_text("{}")
    assert call("demo", "--root", tmp_path) == 1
    assert "will not be overwritten; choose another folder" in capsys.readouterr().err


def test_check_of_a_clean_set_is_status_0_with_its_numbers(small, capsys):
    assert check(small) == 0
    out = capsys.readouterr().out
    assert "10 images, 1 of them without boxes" in out
    assert "5 classes: circle " in out
    assert out.endswith("0 errors, 0 warnings\n")


def test_check_with_errors_is_status_1_and_names_them_all(small, capsys):
    (small / "images" / "train_00003.jpg").unlink()
    change(small / "val.json", lambda content: content["annotations"][0].update(category_id=99))
    assert check(small) == 1
    out = capsys.readouterr().out
    assert "error   train: image files are missing: 1 (train_00003.jpg); copy them to " in out
    assert "error   val: annotations belong to categories that are not listed: 1 (annotation 1 has" in out
    assert "2 errors" in out


def test_check_with_warnings_only_is_status_0(small, capsys):
    change(small / "train.json", lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 3]))
    assert check(small) == 0
    assert "0 errors, 1 warnings" in capsys.readouterr().out


def test_check_writes_json_to_stdout_and_progress_to_stderr(small, capsys):
    assert check(small, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["splits"][1]["images"] == 5
    assert "opening the images of val: 5 of 5 (100%)" in err


def test_check_quick_does_not_open_images(small, capsys):
    (small / "images" / "train_00003.jpg").write_bytes(b"no image")
    assert check(small, "--quick") == 0
    assert check(small) == 1


def test_check_finds_the_boxes_that_no_anchor_of_the_published_grid_reaches(small, capsys):
    # Anchors of 512 × 512 begin at 32 × 32 pixels. Images of at most 128 pixels are enlarged at least 4 times, which
    # makes a square of 4 at least 16 and at most 22 pixels wide: IoU at most (22 / 32)² < 0.5.
    change(small / "train.json", lambda content: content["annotations"][0].update(bbox=[40, 40, 4, 4]))
    assert check(small, "--image-size", 512, "--json") == 0
    (finding,) = [
        finding
        for finding in json.loads(capsys.readouterr().out)["findings"]
        if finding["split"] == "train" and "reached by no anchor" in finding["text"]
    ]
    assert finding["examples"][0].startswith("annotation 1 of train_00000.jpg, IoU 0.")


def test_check_takes_one_annotation_file(small, capsys):
    assert check(small / "val.json", "--json") == 0
    assert [split["split"] for split in json.loads(capsys.readouterr().out)["splits"]] == ["data"]


def test_check_takes_the_data_section_of_a_config(small, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(f"data: {{root: {small}, val_annotations: train.json, val_images: images}}\n")
    assert check(tmp_path / "own.yaml", "--json") == 1  # val is train: every picture is in both
    result = json.loads(capsys.readouterr().out)
    assert [split["images"] for split in result["splits"]] == [10, 10]
    assert result["findings"][0]["text"] == "images of val are also in train"
    assert result["findings"][0]["count"] == 10


def test_check_notes_a_split_that_is_not_there(small, capsys):
    (small / "val.json").unlink()
    assert check(small) == 0
    assert "note    val: no val annotations in" in capsys.readouterr().out


def test_check_of_nothing_is_one_sentence(tmp_path, capsys):
    assert check(tmp_path / "nowhere") == 1
    assert capsys.readouterr().err == f"effdet data: error: data folder {tmp_path / 'nowhere'} does not exist\n"


def test_an_image_size_that_is_none_is_refused(small, capsys):
    assert check(small, "--image-size", 3) == 1
    assert "--image-size must be one or two sides of at least 32 pixels, got 3" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["check"], ["download"], ["download", "coco2014"], ["demo", "--train", "x"]])
def test_incomplete_command_lines_are_usage_errors(argv, capsys):
    assert call(*argv) == 2
    assert "effdet data" in capsys.readouterr().err


def test_download_without_network_is_one_sentence_at_once(tmp_path, capsys):
    assert (
        call("download", "coco2017", "--root", tmp_path / "coco", "--split", "val", "--base-url", "http://127.0.0.1:9")
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith("effdet data: error: http://127.0.0.1:9/zips/val2017.zip cannot be downloaded: ")
    assert error.count("\n") == 1


def test_download_leaves_a_complete_set_alone(tmp_path, capsys):
    for name in ["val2017", "annotations"]:
        (tmp_path / name).mkdir()
    for number in range(5000):
        (tmp_path / "val2017" / f"{number:012d}.jpg").touch()
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}2017.json").touch()
    assert call("download", "coco2017", "--root", tmp_path, "--split", "val", "--base-url", "http://127.0.0.1:9") == 0
    assert "was complete already" in capsys.readouterr().err


def test_a_terminal_shows_a_bar(small):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    script = [sys.executable, str(ROOT / "tools" / "data.py"), "check", str(small), "--json", "--no-estimate"]
    written: list[bytes] = []

    def read():
        with contextlib.suppress(OSError):  # the other end is closed
            while text := os.read(ours, 10_000):
                written.append(text)

    reader = threading.Thread(target=read)  # a terminal that nobody reads holds a few thousand letters
    reader.start()
    done = subprocess.run(script, stdout=subprocess.PIPE, stderr=theirs, timeout=100)
    os.close(theirs)
    reader.join()
    os.close(ours)
    shown = b"".join(written).decode(errors="replace")
    assert done.returncode == 0
    assert json.loads(done.stdout)["errors"] is False
    assert "comparing images" in shown  # the last job; shorter ones before it may never be drawn
    assert "━" in shown
    assert "100%" in shown


def test_the_old_name_still_works(small, capsys):
    assert main(["inspect_data", "check", str(small), "--json", "--no-estimate"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] is False
    assert main(["inspect_data", "check"]) == 2
    assert "usage: effdet inspect-data check" in capsys.readouterr().err


def test_check_looks_at_a_test_split_too(small, capsys):
    (small / "test.json").write_text((small / "val.json").read_text())
    assert check(small, "--json") == 0
    assert [split["split"] for split in json.loads(capsys.readouterr().out)["splits"]] == ["train", "val", "test"]


def test_check_understands_home(small, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(small.parent))
    assert check("~/demo", "--quick") == 0


def test_check_of_one_file_for_all_says_how_to_divide_it(small, capsys):
    (small / "val.json").unlink()
    (small / "train.json").rename(small / "all.json")
    assert check(small) == 0
    assert f"before training, divide it with: effdet data split {small} --val 0.2\n" in capsys.readouterr().out


def test_split_and_convert_do_what_they_say(small, capsys):
    (small / "val.json").unlink()
    (small / "train.json").rename(small / "all.json")
    assert call("split", small, "--val", "0.3", "--likeness", "exact") == 0
    assert f"written to {small / 'splits.json'}" in capsys.readouterr().out
    assert check(small, "--json") == 0
    assert [part["split"] for part in json.loads(capsys.readouterr().out)["splits"]] == ["train", "val"]
    assert call("convert", small, small / "yolo", "--to", "yolo") == 0
    assert "10 linked" in capsys.readouterr().out
    assert call("convert", small, small / "csv", "--to", "csv", "--copy", "--json") == 0
    written = json.loads(capsys.readouterr().out)
    assert sum(written["boxes"].values()) == 26
    assert written["files"]["copied"] == 10
    assert call("convert", small, small / "csv", "--to", "csv") == 1
    assert "must be a new or an empty folder" in capsys.readouterr().err


def test_check_takes_settings_on_either_side_of_the_options(small, capsys):
    assert check(small, "model.name=d1", "--json", "data.long_side=256") == 0
    assert json.loads(capsys.readouterr().out)["network"]["name"] == "d1"
    assert check(small, "--image-size", 320, 384, "--config", "custom", "--json") == 0
    assert json.loads(capsys.readouterr().out)["network"]["image_size"] == [320, 384]


def test_check_estimates_memory_and_time(small, capsys):
    settings = ["data.long_side=96", "data.max_long_side=96", "train.epochs=7", "train.batch_size=8", "data.workers=0"]
    assert call("check", small, "--json", *settings) == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert (estimate["batch_size"], estimate["steps_per_epoch"], estimate["epochs"]) == (8, 2, 7)
    expected = 7 * 2 * estimate["seconds_per_step"] + 7 * estimate["seconds_per_evaluation"]
    assert estimate["seconds"] == pytest.approx(expected)
    assert estimate["memory"] > 100_000_000


def test_fix_writes_a_copy_and_the_status_is_that_of_the_copy(small, tmp_path, capsys):
    (small / "images" / "train_00003.jpg").unlink()
    assert check(small, "--fix", tmp_path / "fixed") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'fixed'} has a cleaned copy in coco:" in out
    assert "images are left out, as their files are missing: 1 (train_00003.jpg)" in out
    assert out.endswith("0 errors, 0 warnings\n")
    assert check(small, "--fix", tmp_path / "fixed") == 1
    assert "must be a new or an empty folder" in capsys.readouterr().err


def test_show_writes_a_page_and_two_pictures(small, tmp_path, capsys):
    out = tmp_path / "shown"
    assert call("show", small, "--out", out, "--images", 2, "--json", "data.long_side=96", "data.max_long_side=96") == 0
    written = json.loads(capsys.readouterr().out)
    assert written == {
        "page": str(out / "index.html"),
        "contact_sheet": str(out / "contact_sheet.png"),
        "plots": str(out / "boxes.png"),
    }
    assert "The network input is 96×96." in (out / "index.html").read_text()
    assert all(Path(file).stat().st_size > 10_000 for file in written.values())
    assert call("show", small, "--out", out, "--images", 0) == 1
    assert "the number of images to show must be 1 or more, got 0" in capsys.readouterr().err


def test_show_of_a_set_without_images_is_one_sentence(tmp_path, capsys):
    (tmp_path / "train.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    assert call("show", tmp_path, "--out", tmp_path / "shown") == 1
    assert "train.json: must have images to show, but there are none" in capsys.readouterr().err
    assert not (tmp_path / "shown").exists()
