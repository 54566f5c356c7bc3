"""Give every reader some damaged and hostile files; `make fuzz` gives it as many as are asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effdet.deployment.description import Description
from effdet.weights.pickle_scan import check_pickle
from effdet.weights.sstable import read_table
from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.run import State, run_target, try_input
from fuzz.targets import Target, all_targets, is_clean

TARGETS = all_targets()
KNOWN = {"splits.json": [90], "PNG": [848, 7203], "JPEG": [7683]}  # inputs that once failed


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_accepted_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    logging.disable(logging.WARNING)
    try:
        for number in [*range(target.in_ci), *KNOWN.get(name, [])]:
            folder = tmp_path / str(number)
            folder.mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow and PyTorch about the file
                wrong = try_input(target, target.input(number), folder)
            assert not wrong, f"input {number}: {wrong}"
    finally:
        logging.disable(logging.NOTSET)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_a_description_of_any_form_is_refused(value: object) -> None:
    for content in (value, {"format": "effdet-deployed-2", "architecture": value, "settings": value}):
        with pytest.raises(ValueError, match=r"model.onnx"):
            Description.from_json(json.dumps(content), "model.onnx")


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_the_scan_of_a_pickle_and_of_a_table(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        check_pickle(content)
    with pytest.raises(ValueError, match="table of TensorFlow"):
        read_table(content)


def test_inputs_are_the_same_every_time() -> None:
    target = TARGETS["COCO JSON"]
    assert [target.input(number) for number in range(20)] == [target.input(number) for number in range(20)]
    rng = random.Random(0)
    assert len({mutate_bytes(b"abcdef" * 100, rng) for _ in range(50)}) > 40
    assert len({json.dumps(mutate_json({"a": [1, {"b": 2}]}, rng)) for _ in range(50)}) > 20


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (ValueError("one sentence"), ""),
        (FileNotFoundError("x does not exist"), ""),
        (KeyError("a"), "KeyError instead of"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), "UnicodeDecodeError instead of"),
        (json.JSONDecodeError("x", "", 0), "an error of the JSON reader"),
        (ValueError("a\nb"), "several lines"),
        (ValueError("a" * 2000), "2000 characters"),
        (ValueError(), "no message"),
    ],
)
def test_only_one_sentence_of_the_right_kind_is_clean(error: Exception, wrong: str) -> None:
    assert is_clean(error).startswith(wrong) if not wrong else wrong in is_clean(error)


@pytest.mark.slow
def test_a_reader_that_ends_its_process_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fuzz.run

    def read(content: bytes, folder: Path) -> None:
        if content == b"3":
            import os

            os._exit(7)
        if content == b"5":
            raise KeyError(content)
        raise ValueError("no")

    fatal = Target("fatal", lambda: [b""], read, lambda content, rng, seeds: b"?")
    monkeypatch.setattr(Target, "input", lambda self, number: str(number).encode())
    monkeypatch.setattr(fuzz.run, "all_targets", lambda: {"fatal": fatal})
    state = State(tmp_path / "state.json")
    assert run_target(fatal, range(10), tmp_path / "failures", state) == 2
    kept = sorted(path.name for path in (tmp_path / "failures" / "fatal").iterdir())
    assert kept == ["3.input", "3.txt", "5.input", "5.txt"]
    assert (tmp_path / "failures" / "fatal" / "3.txt").read_text() == "the process ended with 7"
    assert State(tmp_path / "state.json").next("fatal") == 10
