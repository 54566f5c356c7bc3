"""Tests of effdet/commands/predict.py with record.py and video.py: the command as it is called."""

import io
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.commands import main
from effdet.detector.efficientdet import EfficientDet
from effdet.images.reading import read_image
from effdet.images.video import VideoWriter
from effdet.runs.image_ids import ListedImages
from effdet.runs.predict import predict_to_folder
from effdet.runs.prediction_files import PredictionFiles
from effdet.structures import Detections

NAMES, IDS = ("Platelets", "RBC", "WBC"), (1, 2, 3)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small model with random weights and the classes of the blood cells."""
    torch.manual_seed(0)
    model = EfficientDet("lite0", num_classes=3, image_size=(64, 64), class_names=NAMES, category_ids=IDS)
    path = tmp_path_factory.mktemp("weights") / "cells.safetensors"
    model.save_pretrained(path)
    return path


@pytest.fixture
def seer(monkeypatch):
    """Let every model find one WBC in the upper left quarter of every image."""

    def detect(self, batch, *, least_score=0.0):
        return [
            Detections(
                torch.tensor([[0.0, 0.0, size[1] / 2, size[0] / 2]]),
                torch.tensor([2]),
                torch.tensor([0.75]),
                self.class_names,
                self.category_ids,
                (size[0], size[1]),
            )
            for size in [(int(height), int(width)) for height, width in batch.original_sizes]
        ]

    monkeypatch.setattr(EfficientDet, "detect", detect)


@pytest.fixture
def photos(photo_sets, tmp_path):
    """Two folders of real photos; x.jpg is in both."""
    files = [item["file_name"] for item in json.loads((photo_sets / "bccd" / "val.json").read_text())["images"][:3]]
    for name, file in zip(("a/x.jpg", "b/x.jpg", "b/[y].jpg"), files, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(photo_sets / "bccd" / "images" / file, tmp_path / name)
    return tmp_path


def predict(weights, *args):
    return main(["predict", "--weights", str(weights), *map(str, args)])


def write_video(path, num_frames, size=(48, 64), rate=Fraction(10)):
    with VideoWriter(path, rate) as video:
        for number in range(num_frames):
            video.write(np.full((*size, 3), 20 * number, np.uint8))
    return path


def read(out, name):
    return json.loads((Path(out) / name).read_text())


def test_pictures_results_and_lines_for_every_kind_of_source(weights, seer, photos, capsys):
    out = photos / "out"
    args = [photos / "a", photos / "b" / "x.jpg", f"{photos}/b/*y*.jpg", "--out", out, "--batch-size", "2"]
    assert predict(weights, *args) == 0

    assert sorted(file.name for file in out.iterdir()) == ["[y].jpg", "images.json", "results.json", "x.jpg", "x_2.jpg"]
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == [
        f"1 detection (1 WBC) -> {out / name}" for name in ("x.jpg", "x_2.jpg", "[y].jpg")
    ]
    height, width = read_image(photos / "a" / "x.jpg").shape[:2]
    images = read(out, "images.json")
    assert images["images"][1] == {
        "id": 2,
        "file_name": str(photos / "b" / "x.jpg"),
        "width": width,
        "height": height,
        "drawn": "x_2.jpg",
    }
    assert images["categories"] == [{"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)]
    assert read(out, "results.json") == [
        {"image_id": number, "category_id": 3, "bbox": [0, 0, width / 2, height / 2], "score": 0.75}
        for number in (1, 2, 3)
    ]


def test_the_fast_preset_reports_boxes_of_the_full_size_and_draws_a_reduced_picture(weights, seer, tmp_path):
    Image.new("RGB", (640, 512), "gray").save(tmp_path / "large.jpg")
    assert predict(weights, tmp_path / "large.jpg", "--out", tmp_path / "out", "--preset", "fast") == 0
    assert read(tmp_path / "out", "results.json")[0]["bbox"] == [0, 0, 320, 256]
    drawn = read_image(tmp_path / "out" / "large.jpg")
    assert drawn.shape == (64, 80, 3)
    assert drawn[32, 2:30].max(axis=1).min() > 140  # the lower edge of the box, gray elsewhere
    assert drawn[50:, 50:].max() < 140


def test_the_picture_is_the_photo_with_boxes_drawn_on_it(weights, seer, photos):
    predict(weights, photos / "a" / "x.jpg", "--out", photos / "out")
    photo, drawn = read_image(photos / "a" / "x.jpg"), read_image(photos / "out" / "x.jpg")
    changed = np.abs(photo.astype(int) - drawn).max(axis=2) > 60
    height, width = photo.shape[:2]
    assert drawn.shape == photo.shape
    assert changed[height // 2 - 2, 10 : width // 2 - 10].mean() > 0.9  # the lower edge of the box
    assert changed[height // 2 + 10 :, width // 2 + 10 :].mean() < 0.001


def test_a_real_network_runs_and_the_threshold_holds(weights, photos):
    def scores(threshold):
        predict(weights, photos / "b", "--out", photos / "out", "--score-threshold", threshold, "--max-detections", 7)
        return [row["score"] for row in read(photos / "out", "results.json")]

    everything = scores(0)
    assert len(everything) == 2 * 7
    middle = sorted(everything)[7]
    assert scores(middle) == pytest.approx([score for score in everything if score >= middle])


def test_json_on_stdout_is_nothing_but_json(weights, seer, photos, capsys):
    assert predict(weights, photos / "a", "--out", photos / "out", "--json", "-") == 0
    captured = capsys.readouterr()
    (entry,) = json.loads(captured.out)
    assert (entry["class_names"], entry["category_ids"], entry["labels"], entry["scores"]) == (
        ["WBC"],
        [3],
        [2],
        [0.75],
    )
    assert (entry["image_id"], entry["source"]) == (1, str(photos / "a" / "x.jpg"))
    assert "1 detection (1 WBC)" in captured.err


def test_json_goes_to_a_file_in_a_new_folder(weights, seer, photos):
    target = photos / "deep" / "down" / "all.json"
    predict(weights, photos / "b", "--out", photos / "out", "--json", target)
    assert len(json.loads(target.read_text())) == 2


def test_what_cannot_be_read_is_named_and_the_others_go_on(weights, seer, photos, capsys):
    (photos / "b" / "half.jpg").write_bytes((photos / "a" / "x.jpg").read_bytes()[:3000])
    (photos / "empty").mkdir()
    sources = [photos / "gone.jpg", photos / "b", photos / "empty", f"{photos}/*.tif", photos / "gone.mp4"]
    assert predict(weights, *sources, "--out", photos / "out") == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    problems = captured.err.splitlines()
    assert problems.pop() == "5 of the sources could not be read"
    assert len(problems) == 5
    for problem, name in zip(problems, ("gone.jpg", "empty", "*.tif", "gone.mp4", "half.jpg"), strict=True):
        assert problem.startswith(f"{photos}/") or problem.startswith(f"{photos / 'b'}/")
        assert name in problem.split(": ")[0]
    assert len(read(photos / "out", "images.json")["images"]) == 2


def test_a_source_given_twice_is_predicted_once(weights, seer, photos):
    predict(weights, photos / "a", photos / "a" / "x.jpg", "--out", photos / "out")
    assert len(read(photos / "out", "images.json")["images"]) == 1


def test_sources_are_never_overwritten(weights, seer, photos):
    before = (photos / "a" / "x.jpg").read_bytes()
    assert predict(weights, photos / "a" / "x.jpg", "--out", photos / "a") == 0
    assert (photos / "a" / "x.jpg").read_bytes() == before
    assert (photos / "a" / "x_2.jpg").is_file()


def test_other_files_are_never_overwritten_but_pictures_of_last_time_are(weights, seer, photos):
    out = photos / "out"
    out.mkdir()
    (out / "x.jpg").write_text("precious")
    for _ in range(2):
        predict(weights, photos / "a" / "x.jpg", "--out", out)
    assert (out / "x.jpg").read_text() == "precious"
    assert sorted(file.name for file in out.iterdir()) == ["images.json", "results.json", "x.jpg", "x_2.jpg"]


def test_gray_palette_and_alpha_images_are_drawn_in_their_own_format(weights, seer, photos):
    photo = Image.open(photos / "a" / "x.jpg")
    for name, mode in (("gray.png", "L"), ("palette.gif", "P"), ("alpha.webp", "RGBA"), ("plain.bmp", "RGB")):
        photo.convert(mode).save(photos / "a" / name)
    assert predict(weights, photos / "a", "--out", photos / "out") == 0
    for name, kind in (("gray.png", "PNG"), ("palette.gif", "GIF"), ("alpha.webp", "WEBP"), ("plain.bmp", "BMP")):
        with Image.open(photos / "out" / name) as drawn:
            assert (drawn.format, drawn.size) == (kind, photo.size)


def test_annotations_give_their_ids_so_that_the_results_can_be_evaluated(weights, seer, photo_sets, tmp_path, capsys):
    folder = photo_sets / "bccd"
    truth = json.loads((folder / "val.json").read_text())
    truth["categories"] = [{**item, "id": item["id"] * 10} for item in truth["categories"]]
    truth["annotations"] = [{**item, "category_id": item["category_id"] * 10} for item in truth["annotations"]]
    (tmp_path / "val.json").write_text(json.dumps(truth))
    chosen = truth["images"][5:7]
    sources = [folder / "images" / item["file_name"] for item in chosen]
    out = tmp_path / "out"

    assert predict(weights, *sources, "--annotations", tmp_path / "val.json", "--out", out) == 0

    rows = read(out, "results.json")
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(item["id"], 30) for item in chosen]
    capsys.readouterr()
    args = ["--predictions", str(out / "results.json"), "--annotations", str(tmp_path / "val.json")]
    assert main(["evaluate", *args]) == 0


def test_an_image_or_video_without_an_id_is_named(weights, seer, photos, photo_sets, capsys):
    video = write_video(photos / "clip.mp4", 2)
    truth = photo_sets / "bccd" / "val.json"
    assert predict(weights, photos / "a" / "x.jpg", video, "--annotations", truth, "--out", photos / "out") == 1
    error = capsys.readouterr().err
    assert f"x.jpg: is not among the images of {truth}" in error
    assert "clip.mp4: a video has no image ids; leave it out or leave out the annotations" in error


def test_annotations_with_other_classes_are_an_error(weights, photos, photo_sets, capsys):
    truth = photo_sets / "coco_open" / "val.json"
    assert predict(weights, photos / "a", "--annotations", truth, "--out", photos / "out") == 1
    assert "the model's classes must include the data set's categories" in capsys.readouterr().err


def test_a_video_becomes_a_video_of_the_same_length_and_rate(weights, seer, tmp_path, capsys):
    av = pytest.importorskip("av")
    source = write_video(tmp_path / "clip.mp4", 5, rate=Fraction(30000, 1001))
    assert predict(weights, source, "--out", tmp_path / "out", "--batch-size", "2") == 0
    drawn = tmp_path / "out" / "clip.mp4"
    assert capsys.readouterr().out == f"{source}: 5 frames, 5 detections -> {drawn}\n"
    with av.open(str(drawn)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 5
    images = read(tmp_path / "out", "images.json")["images"]
    assert [(item["id"], item["file_name"]) for item in images] == [(n + 1, f"{source}#{n}") for n in range(5)]


def test_a_broken_video_is_named_and_leaves_nothing(weights, seer, tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 100)
    assert predict(weights, tmp_path / "noise.mp4", "--out", tmp_path / "out") == 1
    assert "noise.mp4: not a readable video" in capsys.readouterr().err
    assert not (tmp_path / "out" / "noise.mp4").exists()


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--batch-size", "0"], 2, "--batch-size must be 1 or more, got 0"),
        (["--score-threshold", "30"], 2, "--score-threshold must lie in [0, 1], got 30.0"),
        (["--device", "abacus"], 1, "--device must be auto, cpu, cuda, cuda:N or mps, got 'abacus'"),
        (["--image-size", "9", "9", "9"], 1, "--image-size must be one or two sides of at least 32 pixels, got 9 9 9"),
        (["--annotations", "gone.json"], 1, "annotations file gone.json does not exist"),
        (["--weights", "gone.safetensors"], 1, "gone.safetensors"),
    ],
)
def test_wrong_options_are_one_sentence(weights, tmp_path, args, status, message, capsys):
    assert predict(weights, "x.jpg", "--out", tmp_path / "out", *args) == status
    assert message in capsys.readouterr().err


def test_ids_are_found_by_the_end_of_the_path(tmp_path):
    images = [("x.jpg", 1), ("b/x.jpg", 2), ("c/b/x.jpg", 3), ("y.jpg", 4), ("z/y.jpg", 5), ("q.jpg", 6), ("q.jpg", 7)]
    content = {"images": [{"file_name": name, "id": number} for name, number in images], "categories": [{"id": 4}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    listed = ListedImages(tmp_path / "truth.json")
    assert (listed.class_names, listed.category_ids) == (("4",), (4,))
    assert listed.id_of(Path("/data/x.jpg")) == 1
    assert listed.id_of(Path("/data/b/x.jpg")) == 2
    assert listed.id_of(Path("/data/c/b/x.jpg")) == 3
    assert listed.id_of(Path("/data/b/y.jpg")) == 4
    with pytest.raises(ValueError, match=r"w.jpg: is not among the images of .*truth.json"):
        listed.id_of(Path("/data/w.jpg"))
    with pytest.raises(ValueError, match=r"q.jpg: stands in .*truth.json under several ids: 6, 7"):
        listed.id_of(Path("/data/q.jpg"))


@pytest.mark.parametrize("content", [{"images": [{"id": 1}], "categories": []}, [], {"images": []}])
def test_annotations_must_list_images(tmp_path, content):
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"truth.json: must be COCO JSON whose images have id and file_name"):
        ListedImages(tmp_path / "truth.json")


def test_what_was_found_before_an_interruption_is_written(weights, seer, photos):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(EfficientDet.from_pretrained(weights), photos / "b", photos / "out", report=interrupt)
    assert len(read(photos / "out", "results.json")) == 1
    assert len(read(photos / "out", "images.json")["images"]) == 1
    assert not list((photos / "out").glob(".*"))


def test_a_failed_write_leaves_the_files_of_last_time(weights, seer, photos):
    predict(weights, photos / "a", "--out", photos / "out")
    before = read(photos / "out", "results.json")
    with (
        pytest.raises(TypeError, match="not JSON serializable"),
        PredictionFiles(photos / "out", [], {}) as files,
    ):
        files._images.close = lambda: json.dumps(object())
    assert read(photos / "out", "results.json") == before
    assert not list((photos / "out").glob(".*"))


def test_python_callers_get_what_was_done(weights, seer, photos, caplog):
    caplog.set_level("INFO")
    (photos / "bad.jpg").write_text("hello")
    data = (photos / "a" / "x.jpg").read_bytes()
    sources = [photos / "a", data, np.zeros((20, 30, 3), np.uint8), photos / "bad.jpg", io.BytesIO(data)]
    model = EfficientDet.from_pretrained(weights)
    done = predict_to_folder(model, sources, photos / "out", details=photos / "all.json")
    assert (done.folder, done.num_images, done.num_detections) == (photos / "out", 4, 4)
    assert done.failures == (f"{photos}/bad.jpg: is not an image of a known format",)
    drawn = [image["drawn"] for image in read(photos / "out", "images.json")["images"]]
    assert drawn == ["x.jpg", "bytes-1.png", "image-2.png", "bytes-4.png"]
    assert all((photos / "out" / name).is_file() for name in drawn)
    assert [row["drawn"] for row in json.loads((photos / "all.json").read_text())] == [
        str(photos / "out" / name) for name in drawn
    ]
    assert caplog.messages[0] == f"{photos}/a/x.jpg: 1 detection (1 WBC) -> {photos}/out/x.jpg"


def test_a_wrong_type_writes_nothing(weights, photos):
    with pytest.raises(TypeError, match=r"a source must be a path, .* got int"):
        predict_to_folder(EfficientDet.from_pretrained(weights), [photos / "a", 5], photos / "out")
    assert not (photos / "out").exists()


def test_only_files_have_ids(weights, seer, photos, photo_sets):
    model = EfficientDet.from_pretrained(weights)
    sources = [np.zeros((20, 30, 3), np.uint8)]
    done = predict_to_folder(model, sources, photos / "out", annotations=photo_sets / "bccd" / "val.json")
    assert done.failures == ("image 0: only files have ids in the annotations, got ndarray",)


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"two\nlines.jpg", "f\u00fcnf.jpg".encode()])
def test_names_of_every_kind_come_back_from_the_files(weights, seer, photos, name, capsys):
    file = Path(os.fsdecode(os.fsencode(photos) + b"/c/" + name))
    file.parent.mkdir()
    shutil.copy(photos / "a" / "x.jpg", file)
    assert predict(weights, photos / "c", "--out", photos / "out", "--json", photos / "all.json") == 0
    (image,) = read(photos / "out", "images.json")["images"]
    assert os.fsencode(image["file_name"]) == os.fsencode(file)
    assert os.fsencode(image["drawn"]) == name
    assert (photos / "out" / image["drawn"]).is_file()
    (entry,) = json.loads((photos / "all.json").read_text())
    assert os.fsencode(entry["source"]) == os.fsencode(file)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_without_drawing_there_are_only_the_json_files(weights, seer, photos, capsys):
    clip = write_video(photos / "clip.mp4", 3)
    assert (
        predict(weights, photos / "a", clip, "--out", photos / "out", "--no-draw", "--json", photos / "all.json") == 0
    )
    assert sorted(path.name for path in (photos / "out").iterdir()) == ["images.json", "results.json"]
    images = read(photos / "out", "images.json")["images"]
    assert [Path(image["file_name"]).name for image in images] == ["x.jpg", "clip.mp4#0", "clip.mp4#1", "clip.mp4#2"]
    assert not any("drawn" in image for image in images)
    assert len(read(photos / "out", "results.json")) == 4
    assert not any("drawn" in row for row in read(photos, "all.json"))
    assert "x.jpg: 1 detection (1 WBC)\n" in capsys.readouterr().out


def test_pictures_of_last_time_are_known_also_after_a_prediction_without_pictures(weights, seer, photos):
    assert predict(weights, photos / "a", "--out", photos / "out", "--no-draw") == 0
    assert predict(weights, photos / "a", "--out", photos / "out") == 0
    assert predict(weights, photos / "a", "--out", photos / "out") == 0
    assert sorted(path.name for path in (photos / "out").iterdir()) == ["images.json", "results.json", "x.jpg"]


def test_classes_are_chosen_by_name(weights, seer, photos, capsys):
    assert predict(weights, photos / "a", "--out", photos / "out", "--classes", "RBC", "WBC") == 0
    assert len(read(photos / "out", "results.json")) == 1
    assert predict(weights, photos / "a", "--out", photos / "out", "--classes", "RBC") == 0
    assert read(photos / "out", "results.json") == []
    assert predict(weights, photos / "a", "--out", photos / "out", "--classes", "WCB") == 1
    assert "classes must be names of the model's classes, got 'WCB'; did you mean 'WBC'?" in capsys.readouterr().err


def test_tiles_flip_and_scales_give_what_python_gives(weights, photos):
    options = ["--tiles", "200", "300", "--overlap", "0.1", "--flip", "--scales", "1", "0.5"]
    assert predict(weights, photos / "a/x.jpg", "--out", photos / "out", "--score-threshold", "0", *options) == 0
    (found,) = EfficientDet.from_pretrained(weights).predict(
        photos / "a/x.jpg", score_threshold=0, tiles=(200, 300), overlap=0.1, flip=True, scales=[1, 0.5]
    )
    scores = [row["score"] for row in read(photos / "out", "results.json")]
    assert len(scores) > 300  # more than the 100 that one look at the photo gives
    assert scores[:20] == pytest.approx(found.scores[:20].tolist(), rel=1e-3)


def test_tiles_are_cut_at_full_size_whatever_the_preset(weights, seer, tmp_path):
    """The seer finds one object in every tile, and those of two tiles do not overlap."""
    Image.fromarray(np.zeros((512, 1024, 3), np.uint8)).save(tmp_path / "large.jpg")
    options = ["--preset", "fast", "--tiles", "512", "--overlap", "0"]
    assert predict(weights, tmp_path / "large.jpg", "--out", tmp_path / "out", *options) == 0
    boxes = [row["bbox"] for row in read(tmp_path / "out", "results.json")]
    assert boxes == [[0, 0, 256, 256], [512, 0, 256, 256]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tiles", "big"], "--tiles must be one side in pixels, a height and a width, or auto, got big"),
        (["--tiles", "1", "2", "3"], "--tiles must be one side in pixels"),
        (["--tiles", "auto"], "tiles must be a number of pixels for lite0, got 'auto'"),
        (["--overlap", "0.5"], "overlap goes with tiles"),
        (["--scales", "0"], "scales must be different numbers"),
    ],
)
def test_wrong_views_are_one_sentence(weights, seer, photos, args, message, capsys):
    assert predict(weights, photos / "a", "--out", photos / "out", *args) == 1
    assert message in capsys.readouterr().err
    assert not (photos / "out").exists()


def test_images_and_videos_of_the_web_are_predicted(weights, seer, photos, file_server, capsys):
    file_server.files["/x.jpg"] = (photos / "a/x.jpg").read_bytes()
    file_server.files["/clip.mp4"] = write_video(photos / "clip.mp4", 3).read_bytes()
    urls = [f"{file_server.url}/{name}" for name in ("x.jpg", "clip.mp4", "gone.jpg")]
    assert predict(weights, *urls, "--out", photos / "out") == 1
    names = [image["file_name"] for image in read(photos / "out", "images.json")["images"]]
    assert names == [urls[0], *(f"{urls[1]}#{frame}" for frame in range(3))]
    assert sorted(path.name for path in (photos / "out").glob("*.[jm]p*")) == ["clip.mp4", "x.jpg"]
    assert f"{urls[2]}: cannot be read: Not Found" in capsys.readouterr().err
