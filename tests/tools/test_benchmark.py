import contextlib
import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from benchmark.command import main, parser
from benchmark.compare import agreement, same_outputs
from benchmark.exports import exported_file
from benchmark.measurements import quality
from benchmark.measurements.models import check_kept
from benchmark.measurements.throughput import doublings
from benchmark.plot import plot, read_curves
from benchmark.race import Entry, Runner, RunnerError, race, spread
from benchmark.report import failed, print_result
from benchmark.runners import serve
from benchmark.runners.commands import Command
from benchmark.runners.stopwatch import Stopwatch

RUNNERS = Path(serve.__file__).parent
TASK = """
class Count:
    def __init__(self, *, start):
        self.number, self.facts = start, {"start": start}
    def step(self):
        print("this goes to stderr")
        self.number += 1
        return {"half": 0.5}
    def result(self):
        return self.number
TASKS = {"count": Count}
"""


def ask(file, *requests):
    answers = StringIO()
    serve.serve(str(file), StringIO("\n".join(map(json.dumps, requests))), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


# -- the process of a runner


def test_runner_starts_steps_and_gives_its_result(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    start = {"do": "start", "task": "count", "settings": {"start": 3}}
    first, steps, result = ask(tmp_path / "task.py", start, {"do": "step", "count": 2}, {"do": "result"})
    assert first["facts"] == {"start": 3}
    assert len(steps["seconds"]) == 2
    assert all(seconds > 0 for seconds in steps["seconds"])
    assert steps["parts"] == [{"half": 0.5}, {"half": 0.5}]
    assert result["result"] == 5
    assert result["peak_mb"] > 1


def test_errors_of_a_runner_are_answers(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    (answer,) = ask(tmp_path / "task.py", {"do": "start", "task": "count", "settings": {}})
    assert answer["error"].startswith("TypeError")
    assert "start" in answer["error"]


def test_serving_needs_nothing_but_the_standard_library():
    code = f"import sys; sys.path.insert(0, {str(RUNNERS)!r}); import serve; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


@pytest.mark.parametrize("name", ["peer_effdet", "peer_torchvision", "peer_quality"])
def test_peers_import_nothing_of_ours(name):
    text = (RUNNERS / f"{name}.py").read_text(encoding="utf-8")
    assert "benchmark." not in text
    assert "import effdet" not in text


@pytest.mark.skipif(not hasattr(os, "SCHED_RR") or os.geteuid() != 0, reason="needs Linux and root")
def test_measured_steps_go_before_other_programs():
    with serve.real_time():
        assert os.sched_getscheduler(0) == os.SCHED_RR
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


# -- the race


def command(name, code):
    settings = {"argv": [sys.executable, "-c", code], "isolated": True}
    return Entry(name=name, module="commands", task="command", settings=settings)


def test_race_measures_all_and_keeps_the_error_of_one(capsys, monkeypatch):
    monkeypatch.setattr("benchmark.race.LONG_ROUND", 0.2)
    fast, slow, broken = race(
        [command("fast", ""), command("slow", "import time; time.sleep(0.2)"), command("broken", "1 / 0")],
        rounds=2,
        warmup=1,
    )
    assert (len(fast.seconds), len(slow.seconds), len(broken.seconds)) == (2, 2, 0)
    assert slow.median >= 0.2
    assert fast.error is None
    assert "ZeroDivisionError" in broken.error
    assert fast.to_dict()["spread"]["count"] == 2
    assert broken.to_dict()["spread"] is None
    said = capsys.readouterr().err
    assert re.findall(r"(\w+) is ready after", said) == ["fast", "slow"]
    assert re.findall(r"round (\d) of 2 took", said) == ["1", "2"]


def test_race_keeps_the_error_of_one_that_fails_at_its_end(monkeypatch):
    ask = Runner.ask

    def fail(self, do, **details):
        if do == "result" and self.entry.name == "broken":
            raise RunnerError("no result")
        return ask(self, do, **details)

    monkeypatch.setattr(Runner, "ask", fail)
    fine, broken = race([command("fine", ""), command("broken", "")], rounds=1, warmup=0)
    assert (fine.error, broken.error) == (None, "no result")


def test_stopwatch_adds_up_what_lies_in_its_functions():
    stopwatch, inside = Stopwatch(), []

    @contextlib.contextmanager
    def enter(value):
        time.sleep(0.02)
        yield value
        inside.append("left")

    timed, entered = stopwatch.around(time.sleep, "sleep"), stopwatch.around_entry(enter, "enter")
    timed(0.01)
    timed(0.02)
    assert timed.__name__ == "sleep"
    assert copy.deepcopy(timed) is timed
    with entered(3) as value:
        assert value == 3
        measured = stopwatch.seconds["enter"]
        time.sleep(0.05)
    assert inside == ["left"]
    assert stopwatch.seconds["sleep"] >= 0.03
    assert stopwatch.seconds["enter"] == measured >= 0.02  # its block is not part of it


def test_first_steps_of_a_turn_are_not_counted(tmp_path):
    """A step takes as long as its number says, in tenths of a second."""
    count = tmp_path / "count"
    code = f"import time; open({str(count)!r}, 'a').write('.'); time.sleep(len(open({str(count)!r}).read()) * 0.1)"
    (row,) = race([command("ours", code)], rounds=2, warmup=1, steps=1, lead_in=1, alone=2)
    assert len(count.read_text()) == 1 + 2 + 2 * 2
    for seconds, least in zip([*row.alone, *row.seconds], (0.2, 0.3, 0.5, 0.7), strict=True):
        assert seconds >= least
    assert row.to_dict()["spread_alone"]["count"] == 2


def test_spread_is_median_quartiles_and_extremes():
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.smallest, found.first_quartile, found.median, found.third_quartile, found.largest) == (1, 2, 3, 4, 5)
    assert spread([7.0]).first_quartile == spread([7.0]).third_quartile == 7
    with pytest.raises(ValueError, match="a spread needs at least one value, got none"):
        spread([])


def test_failing_command_says_why():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        Command(argv=[sys.executable, "-c", "1 / 0"], isolated=True).step()


# -- what is compared

FOUND = {
    "boxes": [[0, 0, 100, 100], [200, 200, 260, 280], [300, 0, 310, 10]],
    "labels": [1, 2, 1],
    "scores": [0.9, 0.5, 0.1],
}


def test_equal_detections_agree_in_any_order():
    turned = {key: values[::-1] for key, values in FOUND.items()}
    assert agreement([FOUND], [turned]) == {"found": 1.0, "surplus": 0.0, "iou": 1.0, "score": 0.0}


@pytest.mark.parametrize(
    ("key", "value"), [("boxes", [0, 0, 101, 100]), ("scores", 0.902), ("labels", 3)], ids=["box", "score", "label"]
)
def test_one_detection_that_differs_is_not_found(key, value):
    other = {**FOUND, key: [value, *FOUND[key][1:]]}
    assert agreement([FOUND], [other])["found"] == 0.5  # of the two above the cut


def test_detection_next_to_the_cut_may_be_missing():
    other = {key: values[:2] for key, values in FOUND.items()}
    result = agreement([FOUND], [other])
    assert (result["found"], result["surplus"]) == (1.0, -1.0)
    assert agreement([{"boxes": [], "labels": [], "scores": []}], [FOUND])["surplus"] == 3


def test_largest_differences_of_outputs_are_told(tmp_path):
    for name, logit, delta in (("a", 0.0, 1.0), ("b", 100.0, 1.5)):
        np.savez(
            tmp_path / f"{name}.npz", logits=np.full((1, 2, 3), logit, np.float32), deltas=np.full((1, 2, 4), delta)
        )
    found = same_outputs([("a", str(tmp_path / "a.npz")), ("b", str(tmp_path / "b.npz"))])
    assert found == {"b": {"score": pytest.approx(0.5), "delta": pytest.approx(0.5)}}
    assert same_outputs([]) == {}


# -- report, picture, command line


def result(variant="d0", measurement="network", images=1):
    rows = [
        {
            **{"name": name, "error": None, "parts": {}, "peak_mb": 500.0},
            "spread": {"median": seconds, "first_quartile": seconds, "third_quartile": seconds, "count": 3},
        }
        for name, seconds in (("ours, eager", 0.1), ("ours, openvino", 0.02), ("effdet, default", 0.2))
    ]
    model = {"variant": variant, "macs": 2.5e9}
    return {"measurement": measurement, "title": "a title", "rows": rows, "images_per_step": images, "model": model}


def test_report_gives_medians_and_ratios():
    out = StringIO()
    print_result(result(), out)
    assert re.search(r"ours, openvino +20\.0 +20\.0–20\.0 +50\.00 +500 +3", out.getvalue())
    assert "ours, openvino: 10.00 × as fast as effdet, default" in out.getvalue()
    assert "ours, openvino: 5.00 × as fast as ours, eager" in out.getvalue()


def test_report_names_what_failed():
    broken = result()
    broken["rows"][2] |= {"error": "effdet, default: no module", "spread": None}
    out = StringIO()
    print_result(broken, out)
    assert "failed: effdet, default: no module" in out.getvalue()
    assert (failed(broken), failed(result())) == (True, False)


def test_report_of_rates_has_the_share_of_perfect_scaling():
    rates = [
        {"cores": 1, "streams": 1, "batch": 4, "images_per_second": 10.0, "efficiency": 1.0},
        {"cores": 2, "streams": 2, "batch": 4, "images_per_second": 18.0, "efficiency": 0.9},
    ]
    out = StringIO()
    print_result({"measurement": "throughput", "title": "a title", "rows": [], "rates": rates}, out)
    assert re.search(r"2 +2 +18\.00 +90%", out.getvalue())


@pytest.mark.parametrize(("limit", "cores"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_cores_are_doubled_up_to_those_that_there_are(limit, cores):
    assert doublings(limit) == cores


def test_picture_has_a_curve_for_each_runner_and_family(tmp_path):
    file, other = tmp_path / "a.json", tmp_path / "b.json"
    file.write_text(json.dumps({"results": [result(), result("d1"), result("lite0"), result(images=8)]}))
    curves = read_curves(json.loads(file.read_text())["results"])
    assert {name: len(points) for name, points in curves.items() if "openvino" in name} == {
        "network: ours, openvino, d": 2,
        "network: ours, openvino, lite": 1,
    }
    plot([file], tmp_path / "out" / "plot.png")
    assert (tmp_path / "out" / "plot.png").stat().st_size > 10_000
    other.write_text(json.dumps({"results": []}))
    with pytest.raises(ValueError, match=r"must hold results of network or predict at batch 1, or of quality"):
        plot([other], tmp_path / "plot.png")


def test_picture_of_trainings_goes_with_no_other(tmp_path):
    network, ours, peer = (tmp_path / f"{name}.json" for name in ("network", "ours", "peer"))
    network.write_text(json.dumps({"results": [result()]}))
    for file in (ours, peer):
        rows = [{"seconds": 60 * minute, "ap": 0.1 * minute, "ap50": 0.2 * minute} for minute in range(1, 5)]
        file.write_text(json.dumps({"results": [{"measurement": "quality", "title": file.stem, "evaluations": rows}]}))
    plot([ours, peer], tmp_path / "runs.png")
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="got none or both"):
        plot([ours, network], tmp_path / "plot.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plot"], "the following arguments are required: FILE, --out"),
        (["network", "a.json"], "unrecognized arguments: a.json"),
        (["network", "--precision", "bf16"], "unrecognized arguments: --precision bf16"),
        (["network", "--repeats", "0"], "--repeats must be 1 or more, got 0"),
        (["network", "--size", "1", "2", "3"], "--size must be one side or height and width, got 3 numbers"),
        (["quality"], "the following arguments are required: --data"),
        (["quality", "--data", "x", "--side", "peer"], "--side peer needs --peer-python PYTHON"),
        (["network", "--peer-python", "nowhere/python"], "--peer-python nowhere/python is no program"),
        (["throughput", "--cores", "0"], "--cores must be 1 or more, got 0"),
        (["throughput", "--seconds", "0"], "--seconds must be more than 0, got 0"),
        (["fly"], "invalid choice"),
    ],
)
def test_command_lines_that_cannot_be_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_help_tells_how_weights_are_made():
    assert "the best scores 0.9" in parser().format_help()


# -- what is prepared


def test_files_of_runtimes_have_names(tmp_path):
    assert exported_file(tmp_path, "litert-int8") == tmp_path / "model-int8.tflite"
    assert exported_file(tmp_path, "openvino") == tmp_path / "model.xml"
    assert exported_file(tmp_path, "/other/best.onnx") == Path("/other/best.onnx")
    with pytest.raises(ValueError, match=r"a runtime must be one of onnxruntime, .* got tensorrt"):
        exported_file(tmp_path, "tensorrt")


def test_a_kept_folder_is_for_the_same_options(tmp_path):
    check_kept(tmp_path, {"variant": "d0", "num_classes": 3})
    check_kept(tmp_path, {"variant": "d0", "num_classes": 3})
    with pytest.raises(ValueError, match=r"--keep must name a folder that was prepared with the same options"):
        check_kept(tmp_path, {"variant": "d0", "num_classes": 4})


# -- the whole command


def run_benchmark(tmp_path, *arguments, turns=("--repeats", "1", "--warmup", "0", "--steps", "1")):
    file = tmp_path / "result.json"
    status = main([*arguments, *turns, "--threads", "1", "--json", str(file)])
    assert status == 0
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_benchmark_of_the_network_runs(tmp_path):
    arguments = ("--size", "64", "--classes", "3", "--images", "2", "--no-peak", "--keep", str(tmp_path / "kept"))
    found = run_benchmark(tmp_path, "network", "--runtime", "eager", "channels_last", *arguments)
    kept = tmp_path / "kept" / "d0-1" / "weights.safetensors"
    before = kept.read_bytes()
    run_benchmark(tmp_path, "network", "--runtime", "channels_last", *arguments)
    assert kept.read_bytes() == before
    assert {"processor", "cores", "versions", "threads"} <= found["machine"].keys()
    (result,) = found["results"]
    assert [row["name"] for row in result["rows"]] == ["ours, eager", "ours, channels_last"]
    assert all(row["spread"]["count"] == 1 and row["peak_mb"] > 50 for row in result["rows"])
    assert result["same"]["ours, channels_last"]["score"] < 1e-3


@pytest.mark.slow
def test_each_model_of_a_call_is_measured_and_not_the_first_again(tmp_path):
    arguments = ("--size", "64", "--classes", "3", "--images", "2", "--no-peak", "--runtime", "eager")
    results = run_benchmark(tmp_path, "network", "--variant", "lite0", "lite1", *arguments)["results"]
    first, second = (result["model"] for result in results)
    assert (first["variant"], second["variant"]) == ("lite0", "lite1")
    assert first["macs"] < second["macs"]


def test_benchmark_of_the_evaluation_runs_and_numbers_are_identical(tmp_path):
    (result,) = run_benchmark(tmp_path, "evaluate", "--images", "3")["results"]
    assert result["largest_difference"] == 0
    assert len(result["rows"]) == 3


@pytest.mark.slow
def test_benchmark_beside_the_peer_runs_and_both_compute_the_same(peer_python, tmp_path):
    peer = ("--peer-python", peer_python, "--peer-modes", "default", "--size", "128", "--images", "2")
    (network,) = run_benchmark(tmp_path, "network", "--runtime", "eager", "--no-peak", *peer)["results"]
    assert network["same"]["effdet, default"]["score"] < 1e-4
    small = ("--photo-size", "96", "128")
    (predict,) = run_benchmark(tmp_path, "predict", "--runtime", "eager:effdet", *small, *peer)["results"]
    assert predict["same"]["effdet, default"]["found"] > 0.95
    (train,) = run_benchmark(tmp_path, "train", "--batch", "2", *peer)["results"]
    ours, theirs = (row["result"] for row in train["rows"])
    assert ours["class_loss"] + ours["box_loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    run_benchmark(tmp_path, "loader", "--batch", "2", *peer[:2], "--size", "128", "--images", "2")


@pytest.mark.slow
def test_benchmark_of_the_start_predicts_from_an_exported_file(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    small = ("--variant", "lite0", "--size", "64", "--classes", "3", "--photo-size", "96", "128")
    (result,) = run_benchmark(tmp_path, "startup", *small)["results"]
    names = [row["name"] for row in result["rows"]]
    runtimes = ["ONNX Runtime", "OpenVINO"] if importlib.util.find_spec("openvino") else ["ONNX Runtime"]
    assert names[-len(runtimes) - 1 :] == [
        *(f"ours: first prediction of lite0.onnx on a photo, {runtime}" for runtime in runtimes),
        "ours: effdet predict of lite0.onnx on a photo",
    ]
    assert all(row["spread"]["count"] == 1 for row in result["rows"])


@pytest.mark.parametrize(("options", "count"), [([], 2), (["--whole"], 3)])
def test_training_stops_at_its_targets_or_goes_on(tmp_path, monkeypatch, options, count):
    """The stand-in of a training reaches both targets at its second evaluation of three."""
    lines = [{"seconds": 60.0, "training_seconds": 50.0, "ap": ap, "ap50": 2 * ap} for ap in (0.3, 0.49, 0.5)]
    code = f"for line in {[json.dumps(line) for line in lines]!r}: print(line)"
    monkeypatch.setattr(quality, "_ours", lambda args, folder: ([sys.executable, "-c", code], {}))
    args = parser().parse_args(["quality", "--data", "photos", *options])
    result = quality.quality(args, tmp_path)
    assert [row["ap"] for row in result["evaluations"]] == [0.3, 0.49, 0.5][:count]
    assert result["reached"] == {"ap50 0.85": 60.0, "ap 0.48": 60.0}


@pytest.mark.sweep
def test_benchmark_of_throughput_gives_rates_by_cores_and_streams(tmp_path, capsys):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    small = ("--variant", "lite0", "--size", "64", "--classes", "3", "--images", "1", "--batch", "2")
    pairs = ("--cores", "1", "2", "--streams", "1", "2", "--seconds", "0.05")
    (result,) = run_benchmark(tmp_path, "throughput", *small, *pairs, turns=())["results"]
    assert [(rate["cores"], rate["streams"]) for rate in result["rates"]] == [(1, 1), (2, 1), (2, 2)]
    assert all(rate["images_per_second"] > 0 and rate["batch"] == 2 for rate in result["rates"])
    assert result["rates"][0]["efficiency"] == 1
    assert "network of lite0 at 64×64, fp32, batch 2, in OpenVINO" in capsys.readouterr().out
