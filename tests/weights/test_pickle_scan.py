"""Pickles that run no code, but would take memory or time without end; each is typed as its instructions."""

import io
import pickle
import struct
import zipfile

import pytest
import torch

from effdet.weights.pickle_scan import check_pickle
from effdet.weights.pickles import check_proportions, read_state

BEGIN = b"\x80\x02"
NESTED_40_TIMES = b")" + b"".join(b"q\x00h\x00h\x00\x86" for _ in range(40))  # each a pair of what stands before, twice


def archive_with(pickled: bytes, path) -> None:
    """Write a file of torch.save whose list of tensors is this pickle."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))


def test_the_end_of_what_torch_saves_is_found():
    buffer = io.BytesIO()
    state = {"a": torch.zeros(2, 3), "b": [1, 2.5, None, True, "é", 2**70], "c": ({},)}
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        pickled = archive.read("archive/data.pkl")
    assert check_pickle(pickled) == len(pickled)
    assert check_pickle(b"??" + pickled + b"more", 2) == 2 + len(pickled)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"}" + NESTED_40_TIMES + b"Ns.", r"nested 1\d deep and stand for \d+,\d+ or more"),
        (b"]" + NESTED_40_TIMES + b"a.", r"nested 1\d deep"),
        (b"}" + b")" + b"\x85" * 200 + b"Ns.", "nested 101 deep"),
        (b"cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.", r"asks 'builtins.bytearray' for 1,073,741,824 values"),
        (b"ctorch\nFloatTensor\nJ\x00\x00\x00\x40\x85\x81.", "asks 'torch.FloatTensor'"),
        (b"ctorch.storage\nUntypedStorage\nJ\x00\x00\x00\x40\x85R.", "asks 'torch.storage.UntypedStorage'"),
        (b"NNN\x86R.", "calls what is no function"),
        (b"(" + b"N" * 2000 + b"tQ.", "the name of one of its storages is too long"),
    ],
    ids=["key", "list", "deep", "bytearray", "tensor", "storage", "call", "storage-name"],
)
def test_what_takes_memory_or_time_is_refused_before_it_is_built(tmp_path, pickled, message):
    with pytest.raises(ValueError, match=message):
        check_pickle(BEGIN + pickled)
    archive_with(BEGIN + pickled, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"x.pth was not loaded: .*{message}"):
        read_state(tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"x.pth was not loaded: .*{message}"):
        check_proportions(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "pickled", [b"", b"\x80", b"h\x07", b"X\xff\xff\xff\xff", b"t", b"c\xff\n\n", b"cno line", b"\x85"]
)
def test_a_damaged_pickle_is_left_to_the_unpickler(pickled):
    assert check_pickle(BEGIN + pickled) >= len(BEGIN)


def test_the_pickles_of_an_old_file_are_all_looked_at(tmp_path):
    first = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    (tmp_path / "x.pth").write_bytes(first + BEGIN + b"}" + NESTED_40_TIMES + b"Ns.")
    with pytest.raises(ValueError, match=r"x.pth was not loaded: its values are nested"):
        read_state(tmp_path / "x.pth")


def test_a_packed_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x/data/0", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"x.pth was not loaded: .* bytes of it would unpack to 314,572,800"):
        read_state(tmp_path / "x.pth")


def test_a_list_of_tensors_is_not_larger_than_one_can_be(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(40 << 20))
    with pytest.raises(ValueError, match=r"the list of its tensors must have 33,554,432 bytes or less, got 41,943,040"):
        read_state(tmp_path / "x.pth")


def test_a_damaged_archive_is_no_file_of_weights(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04" + struct.pack("<5I", *range(5)))
    with pytest.raises(ValueError, match=r"x.pth is not a readable file of weights"):
        check_proportions(tmp_path / "x.pth")
