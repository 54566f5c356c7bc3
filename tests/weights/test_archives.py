import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from effdet.weights.archives import unpacked
from effdet.weights.tensorflow import read_checkpoint


def anything(name: str) -> bool:
    return name.endswith(".index")


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


def write(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_members_lose_their_folders_and_links_are_left_out(tmp_path, name):
    path = write(
        tmp_path / name,
        member("../../outside.index", 1),
        member("/absolute.index", 2),
        member("a/b/c.index", 3),
        member("link.index", 0, tarfile.SYMTYPE, "/etc/passwd"),
        member("hard.index", 0, tarfile.LNKTYPE, "/etc/passwd"),
        member("pipe.index", 0, tarfile.FIFOTYPE),
        member("other.txt", 4),
        member(".hidden.index", 5),
    )
    with unpacked(path, is_part=anything) as folder:
        found = {file.name: file.stat().st_size for file in folder.rglob("*")}
    assert found == {"outside.index": 1, "absolute.index": 2, "c.index": 3}
    assert sorted(file.name for file in tmp_path.iterdir()) == [name]


def test_other_paths_are_left_as_they_are(tmp_path):
    with unpacked(tmp_path, is_part=anything) as folder:
        assert folder == tmp_path


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_fills_the_disk(tmp_path):
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as packed:
        packed.write(member("model.index", 600 << 20).tobuf())
        for _ in range(600):
            packed.write(bytes(1 << 20))
    with (
        pytest.raises(
            ValueError, match=r"x.tar.gz is not a readable archive: its member model.index claims 629,145,600"
        ),
        unpacked(tmp_path / "x.tar.gz", is_part=anything),
    ):
        raise AssertionError
    with (
        pytest.raises(
            ValueError, match=r"x.tar.gz is not a readable archive: it unpacks to more than 268,435,456 bytes"
        ),
        unpacked(tmp_path / "x.tar.gz", is_part=lambda name: False),
    ):
        raise AssertionError


def test_a_sparse_member_is_refused(tmp_path):
    with (tmp_path / "model.index").open("wb") as file:
        os.truncate(file.fileno(), 1 << 20)
    header = member("model.index", 0, tarfile.GNUTYPE_SPARSE)
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % (1 << 33)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    with (
        pytest.raises(ValueError, match=r"its member model.index claims 8,589,934,592 bytes, most of them a hole"),
        unpacked(tmp_path / "x.tar", is_part=anything),
    ):
        raise AssertionError


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    header = member("x", 1 << 30, tarfile.XHDTYPE).tobuf()
    (tmp_path / "x.tar").write_bytes(header + bytes(10240))
    with (
        pytest.raises(ValueError, match="one of its headers claims 1,073,741,824 bytes"),
        unpacked(tmp_path / "x.tar", is_part=anything),
    ):
        raise AssertionError


def test_many_members_are_refused(tmp_path):
    write(tmp_path / "x.tar", *(member(f"{number}.txt") for number in range(10_001)))
    with (
        pytest.raises(ValueError, match="it has more than 10,000 members"),
        unpacked(tmp_path / "x.tar", is_part=anything),
    ):
        raise AssertionError


def test_a_damaged_checkpoint_inside_names_the_archive_and_the_member(tmp_path):
    write(tmp_path / "x.tar.gz", member("model.index", 10))
    with pytest.raises(
        ValueError, match=r"x.tar.gz holds no checkpoint that can be read: model.index cannot be read: "
    ) as e:
        read_checkpoint(tmp_path / "x.tar.gz")
    assert str(e.value).count(str(tmp_path)) == 1
    write(tmp_path / "y.tar.gz", member("model.txt", 10))
    with pytest.raises(ValueError, match=r"y.tar.gz holds no checkpoint that can be read: it holds no TensorFlow"):
        read_checkpoint(tmp_path / "y.tar.gz")


def test_a_damaged_archive_is_one_line(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(257) + b"ustar" + bytes(1000))
    with pytest.raises(ValueError, match=r"x.tar is not a readable archive: [^\n]+$"):
        read_checkpoint(tmp_path / "x.tar")
