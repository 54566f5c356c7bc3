import os
import subprocess
import sys

import pytest
import torch

from effdet.atomic_write import WriteError, remove_temporary_files, replace_file


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"old")
    with replace_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["metrics.csv"]


def test_an_error_in_the_block_leaves_the_old_file_and_keeps_its_type(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"old")

    def interrupted():
        with replace_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["metrics.csv"]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with (
        pytest.raises(WriteError, match=r"a/b\.csv cannot be written: No such file or directory; no file of that name"),
        replace_file(tmp_path / "a" / "b.csv"),
    ):
        pass


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from effdet.atomic_write import WriteError, replace_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with replace_file(Path(sys.argv[1])) as file:
        {write}
except WriteError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("write", ["torch.save(torch.zeros(100_000), file)", "file.write(bytes(400_000))"])
def test_a_file_that_finds_no_space_is_one_sentence_and_the_old_one_stays(tmp_path, write):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED.format(write=write), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = f"the limit on the size of a file (ulimit -f) leaves no space to write {path}; "
    assert result.stdout == expected + "make space and try again, the file of that name is unchanged\n"
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["last.ckpt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_although_pytorch_raises_an_error_of_its_own(tmp_path, monkeypatch):
    from pathlib import Path

    original = Path.open

    def open_full(path, mode="r", *arguments, **options):
        return original(Path("/dev/full"), "wb") if mode == "xb" else original(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_full)
    message = r"there is no space left on the disk to write .*last\.ckpt"
    with pytest.raises(WriteError, match=message), replace_file(tmp_path / "last.ckpt") as file:
        torch.save(torch.zeros(100_000), file)


def test_only_temporary_files_of_the_given_names_are_removed(tmp_path):
    ours = [".last.ckpt.0123abcd.tmp", "last.ckpt.tmp", ".best.safetensors.x_1abcde"]
    others = ["last.ckpt", "notes.tmp", ".other.ckpt.0123abcd.tmp", ".best.safetensors.mine", ".last.ckpt.backup.tmp"]
    for name in [*ours, *others]:
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path, ["last.ckpt", "best.safetensors"])
    assert names_in(tmp_path) == sorted(others)


KILLED = """
import os, signal, sys
from pathlib import Path
from effdet.atomic_write import replace_file
with replace_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_removed(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "best.safetensors")], check=False)
    assert len(names_in(tmp_path)) == 1
    remove_temporary_files(tmp_path, ["best.safetensors"])
    assert names_in(tmp_path) == []
