import hashlib
import io
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from effdet import download as transfer
from effdet.data.download import COCO_2017, Archive, download, unpack

ROOT = Path(__file__).resolve().parents[2]
FILES = {f"pictures/{number}.bin": random.Random(number).randbytes(40_000) for number in range(8)}


def make_zip(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


ZIP = make_zip(FILES)
ARCHIVE = Archive("zips/pictures.zip", len(ZIP), hashlib.md5(ZIP).hexdigest(), "pictures/*.bin", len(FILES))


@pytest.fixture
def server(file_server):
    file_server.files["/zips/pictures.zip"] = ZIP
    return file_server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSES", (0.1,) * 10)


def fetch(server, root, **options):
    return download([ARCHIVE], root, base_url=server.url, **options)


def assert_complete(root):
    assert {str(p.relative_to(root)): p.read_bytes() for p in (root / "pictures").iterdir()} == FILES
    assert not list(root.rglob("*.part")) + list(root.rglob("*.unpacking"))


def test_an_archive_is_downloaded_unpacked_and_kept(server, tmp_path):
    assert fetch(server, tmp_path / "new" / "folder") == ["pictures.zip"]
    assert_complete(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "pictures.zip").read_bytes() == ZIP


def test_the_archive_is_removed_on_request(server, tmp_path):
    fetch(server, tmp_path, delete_archives=True)
    assert os.listdir(tmp_path) == ["pictures"]


def test_what_is_unpacked_already_is_not_asked_for(server, tmp_path):
    fetch(server, tmp_path, delete_archives=True)
    server.requests.clear()
    assert fetch(server, tmp_path) == []
    assert server.requests == []


def test_an_archive_that_lies_there_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "pictures.zip").write_bytes(ZIP)
    fetch(server, tmp_path)
    assert server.requests == []
    assert_complete(tmp_path)


def test_a_lost_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cut_after = [100_000, 0, 80_000]  # the second one breaks before the first byte
    fetch(server, tmp_path)
    assert_complete(tmp_path)
    ranges = [asked for _, asked in server.requests]
    assert ranges[0] is None
    assert len(ranges) == 4
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges[1:]]
    assert 0 < starts[0] == starts[1] < starts[2]


def test_a_connection_that_stays_lost_ends_with_what_is_kept_and_the_next_call_goes_on(server, tmp_path):
    server.cut_after = [100_000] + [0] * 11
    with pytest.raises(OSError, match=r"cannot be downloaded: .* bytes are kept, start again to go on"):
        fetch(server, tmp_path)
    kept = (tmp_path / "pictures.zip.part").stat().st_size
    assert ZIP.startswith((tmp_path / "pictures.zip.part").read_bytes())
    assert 0 < kept <= 100_000

    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests == [("/zips/pictures.zip", f"bytes={kept}-")]
    assert_complete(tmp_path)


def test_a_killed_download_goes_on_with_the_bytes_that_it_has(server, tmp_path):
    server.pause = 0.01
    script = f"""
from effdet.data.download import Archive, download
from effdet import download as transfer
transfer.CHUNK = 4096
download([{ARCHIVE!r}], {str(tmp_path)!r}, base_url={server.url!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    part = tmp_path / "pictures.zip.part"
    while not (part.exists() and part.stat().st_size > 50_000):
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()

    server.pause, server.requests[:], kept = 0.0, [], part.stat().st_size
    assert 50_000 < kept < len(ZIP)
    fetch(server, tmp_path)
    assert server.requests == [("/zips/pictures.zip", f"bytes={kept}-")]
    assert_complete(tmp_path)


def test_a_server_without_ranges_sends_everything_anew(server, tmp_path):
    server.knows_ranges = False
    (tmp_path / "pictures.zip.part").write_bytes(b"x" * 1000)  # would spoil the file if it were kept
    fetch(server, tmp_path)
    assert server.sent == len(ZIP)
    assert_complete(tmp_path)


def test_an_unfinished_file_of_another_program_is_taken_up(server, tmp_path):
    (tmp_path / "pictures.zip").write_bytes(ZIP[:70_000])
    fetch(server, tmp_path)
    assert server.requests == [("/zips/pictures.zip", "bytes=70000-")]
    assert_complete(tmp_path)


def test_progress_is_reported_up_to_the_end(server, tmp_path):
    seen = {}
    fetch(server, tmp_path, report=lambda what, done, total: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["downloading pictures.zip", "checking pictures.zip", "unpacking pictures.zip"]
    assert seen["downloading pictures.zip"][-1] == seen["checking pictures.zip"][-1] == (len(ZIP), len(ZIP))
    assert seen["unpacking pictures.zip"] == [(number, 8) for number in range(1, 9)]


def test_a_wrong_hash_is_refused_and_the_next_call_starts_anew(server, tmp_path):
    server.files["/zips/pictures.zip"] = ZIP[:-1] + b"?"
    with pytest.raises(ValueError, match=f"must have {len(ZIP):,} bytes and MD5 {ARCHIVE.md5}, got .* it was removed"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []

    server.files["/zips/pictures.zip"] = ZIP
    fetch(server, tmp_path)
    assert_complete(tmp_path)


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_wrong_size_is_refused_before_anything_is_written(server, tmp_path, kept):
    server.files["/zips/pictures.zip"] = ZIP + b"?"
    (tmp_path / "pictures.zip.part").write_bytes(ZIP[:kept])
    with pytest.raises(ValueError, match=f"must have {len(ZIP):,} bytes, but the server offers {len(ZIP) + 1:,}"):
        fetch(server, tmp_path)
    assert (tmp_path / "pictures.zip.part").read_bytes() == ZIP[:kept]


@pytest.mark.parametrize(
    ("header", "message"),
    [("bytes 7-99/*", "asked for bytes from 1,000, but the server sends them from 7"), ("all", "without saying which")],
)
def test_a_server_that_sends_another_part_is_refused(server, tmp_path, header, message):
    server.lie_about_range = header
    (tmp_path / "pictures.zip.part").write_bytes(ZIP[:1000])
    with pytest.raises(ValueError, match=message):
        fetch(server, tmp_path)
    assert (tmp_path / "pictures.zip.part").read_bytes() == ZIP[:1000]


def test_an_overlong_part_is_refused_and_removed(server, tmp_path):
    (tmp_path / "pictures.zip.part").write_bytes(ZIP + b"?")
    with pytest.raises(ValueError, match=f"got {len(ZIP) + 1:,} bytes"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (503, "503 Service Unavailable")])
def test_a_refusal_of_the_server_is_told_at_once(server, tmp_path, status, words):
    server.status = status
    with pytest.raises(OSError, match=rf"{server.url}/zips/pictures.zip cannot be downloaded: the server says {words}"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_an_overloaded_server_is_asked_again_once_bytes_have_come(server, tmp_path):
    server.cut_after, server.statuses = [100_000], [None, 503, 503]
    fetch(server, tmp_path)
    assert len(server.requests) == 4
    assert_complete(tmp_path)


def test_no_network_is_told_at_once(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(OSError, match=r"zips/pictures.zip cannot be downloaded: Connection refused"):
            download([ARCHIVE], tmp_path, base_url=url)
    assert time.monotonic() - started < 2


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OSError, match="cannot be downloaded: timed out"):
            download([ARCHIVE], tmp_path, base_url=url)


def test_a_base_url_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="base URL must start with http:// or https://, got 'file:///etc'"):
        download([ARCHIVE], tmp_path, base_url="file:///etc")


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked_for(server, tmp_path):
    huge = Archive("zips/pictures.zip", 10**18, ARCHIVE.md5, ARCHIVE.pattern, 1)
    with pytest.raises(OSError, match=r"must have 2000000000\.0 GB free .*, has .* GB; make room"):
        download([huge], tmp_path, base_url=server.url)
    assert server.requests == []


def test_an_archive_without_the_expected_files_is_refused(server, tmp_path):
    other = Archive(ARCHIVE.path, ARCHIVE.size, ARCHIVE.md5, "photos/*.bin", 8)
    with pytest.raises(ValueError, match=r"does not hold 8 files photos/\*\.bin"):
        download([other], tmp_path, base_url=server.url)


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "..\\out.txt", "\\out.txt", "a/..", "."]
)
def test_a_member_that_leaves_the_folder_is_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / "bad.zip").write_bytes(make_zip({"good.txt": b"good", name: b"bad"}))
    with pytest.raises(ValueError, match=r"bad\.zip: member '.*' would leave the folder; nothing was unpacked"):
        unpack(tmp_path / "bad.zip", tmp_path / "inside")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.zip"]


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("pictures")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    (tmp_path / "bad.zip").write_bytes(make_zip({link: b"/etc", "pictures/passwd": b"bad"}))
    with pytest.raises(ValueError, match="member 'pictures' is a link and may leave the folder"):
        unpack(tmp_path / "bad.zip", tmp_path / "inside")
    assert not (tmp_path / "inside").exists()


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"<html>please log in</html>")
    with pytest.raises(ValueError, match="must be a whole zip file: File is not a zip file; remove it"):
        unpack(tmp_path / "bad.zip", tmp_path)


def test_a_damaged_member_is_not_left_behind_as_a_file(tmp_path):
    damaged = bytearray(ZIP)
    damaged[200] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match="must be a whole zip file: Bad CRC-32"):
        unpack(tmp_path / "bad.zip", tmp_path)
    assert not (tmp_path / "pictures" / "0.bin").exists()


def test_an_interrupted_unpacking_is_completed_and_whole_files_are_not_written_again(tmp_path):
    (tmp_path / "good.zip").write_bytes(ZIP)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.bin").write_bytes(FILES["pictures/0.bin"])
    (tmp_path / "pictures" / "1.bin").write_bytes(b"half")
    (tmp_path / "pictures" / "2.bin.unpacking").write_bytes(b"half")
    before = (tmp_path / "pictures" / "0.bin").stat().st_mtime_ns
    unpack(tmp_path / "good.zip", tmp_path)
    assert_complete(tmp_path)
    assert (tmp_path / "pictures" / "0.bin").stat().st_mtime_ns == before


def test_coco_2017_is_what_its_home_publishes_and_ends_with_the_annotations():
    published = {
        "train2017.zip": (19336861798, "cced6f7f71b7629ddf16f17bbcfab6b2", 118287),
        "val2017.zip": (815585330, "442b8da7639aecaf257c1dceb8ba8c80", 5000),
        "annotations_trainval2017.zip": (252907541, "f4bbac642086de4f52a3fdda2de5fa2c", 2),
    }
    assert {a.name: (a.size, a.md5, a.num_files) for a in COCO_2017["all"]} == published
    assert [archives[-1].name for archives in COCO_2017.values()] == ["annotations_trainval2017.zip"] * 2


def test_an_encrypted_member_is_refused_before_anything_is_written(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
        archive.writestr("b.jpg", b"b")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of the second member in the list at the end
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"x.zip: member 'b.jpg' is encrypted; nothing was unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
