"""Tests of effdet/commands/output.py."""

import json
import os
import subprocess
import sys

import pytest

from effdet.commands.output import prepare_output, write_json

VALUE = {"größe": "红细胞", "odd": "\udcff", "n": [1, 0.1]}


def test_a_file_gets_utf_8_and_its_folder_is_made(tmp_path):
    file = tmp_path / "deep" / "down" / "x.json"
    write_json({"größe": "红细胞"}, file)
    assert file.read_bytes() == '{"größe": "红细胞"}\n'.encode()


def test_indent_spreads_the_value_over_lines(tmp_path):
    write_json({"a": 1}, str(tmp_path / "x.json"), indent=2)
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'


def test_bytes_of_a_file_name_that_are_not_utf_8_come_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write_json([name], tmp_path / "x.json")
    assert os.fsencode(json.loads((tmp_path / "x.json").read_text())[0]) == b"caf\xe9.jpg"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_stdout_of_any_encoding_gets_the_same_value(encoding):
    code = f"from effdet.commands.output import write_json; write_json({VALUE!a}, '-')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout.decode(encoding)) == VALUE


def test_stdout_that_knows_the_letters_gets_them_as_they_are(capsys):
    write_json("é", "-")
    assert capsys.readouterr().out == '"é"\n'


def test_a_folder_is_no_output_file(tmp_path):
    with pytest.raises(ValueError, match=f"the output must be a file, got the folder {tmp_path}; name a file in it"):
        prepare_output(tmp_path)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"x.json cannot be written: permission denied; choose another place"):
        prepare_output(tmp_path / "x.json")


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        prepare_output(tmp_path / "file" / "x.json")


def test_stdout_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare_output("-")
    assert list(tmp_path.iterdir()) == []
