"""Images and videos that are no files: from a web server and an RTSP server on loopback."""

import contextlib
import io
import itertools
import socket
import socketserver
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from effdet.images.addresses import Address, as_address
from effdet.images.faults import ImageError
from effdet.images.sources import iterate_images
from effdet.images.video import Video, VideoWriter

GRAYS = [40 * number for number in range(6)]


def png_bytes(level):
    file = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def clip(tmp_path):
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "clip.mp4", 10) as video:
        for level in GRAYS:
            video.write(np.full((48, 64, 3), level, np.uint8))
    return tmp_path / "clip.mp4"


def as_transport_stream(clip):
    """Return the same frames as an MPEG transport stream, the form in which they travel over RTP."""
    import av

    with av.open(str(clip)) as source, io.BytesIO() as out:
        with av.open(out, "w", format="mpegts") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        return out.getvalue()


def levels(source):
    return [round(float(image.mean())) for _, image in iterate_images(source)]


def test_an_image_of_the_web(file_server):
    file_server.files["/a photo.png"] = png_bytes(77)
    file_server.files["/fünf.png"] = png_bytes(5)
    ((name, image),) = iterate_images(f"{file_server.url}/a photo.png")
    assert (name, image.shape) == (f"{file_server.url}/a photo.png", (20, 30, 3))
    assert (image == 77).all()


@pytest.mark.parametrize(
    ("kind", "is_video"), [("image/png", False), ("video/mp4", True), ("multipart/x-mixed-replace", True)]
)
def test_the_server_says_what_an_address_without_an_ending_is(file_server, kind, is_video):
    file_server.files["/camera"] = png_bytes(9)
    file_server.content_type = kind
    assert Address(f"{file_server.url}/camera").is_video() == is_video
    if not is_video:
        assert levels(f"{file_server.url}/camera") == [9]


def test_a_video_of_the_web(file_server, clip):
    file_server.files["/clip.mp4"] = clip.read_bytes()
    assert levels(f"{file_server.url}/clip.mp4?token=1") == pytest.approx(GRAYS, abs=3)
    with Video(Address(f"{file_server.url}/clip.mp4")) as video:
        assert video.rate == 10


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone.png", "cannot be read: Not Found"),
        ("/broken.png", "is not an image"),
        ("/broken.mp4", "not a readable video"),
    ],
)
def test_what_a_server_does_not_have_is_named(file_server, path, message):
    pytest.importorskip("av")
    file_server.files |= {"/broken.png": b"noise" * 100, "/broken.mp4": b"noise" * 100}
    with pytest.raises(ImageError, match=f"{path}: {message}"):
        levels(file_server.url + path)


def test_a_connection_that_ends_too_early_and_a_huge_image_are_errors(file_server, monkeypatch):
    file_server.files["/a.png"] = bytes(20_000)
    file_server.cut_after.append(8192)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read: "):
        levels(f"{file_server.url}/a.png")
    monkeypatch.setattr("effdet.images.addresses.MAX_BYTES", 10_000)
    with pytest.raises(ImageError, match=r"a\.png: an image must have at most 10,000 bytes, got more"):
        levels(f"{file_server.url}/a.png")
    monkeypatch.setattr("effdet.images.addresses.MAX_BYTES", 10**6)
    monkeypatch.setattr("effdet.images.addresses._DEADLINE", -1.0)
    with pytest.raises(ImageError, match=r"a\.png: an image must come within -1 seconds"):
        levels(f"{file_server.url}/a.png")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.png", "http://[::1]:9/a.png", "http://:x/a.png", "https://ä.invalid/a.png"]
)
def test_an_address_that_nobody_answers_is_one_sentence(address):
    with pytest.raises(ImageError, match=r"a\.png: cannot be read: .+"):
        levels(address)


def test_which_texts_are_addresses():
    assert as_address("photos/a.png") is None
    assert as_address("D:a.png") is None
    assert as_address("webcam:12").webcam == 12
    assert as_address("rtsp://host/stream").is_video()
    assert str(as_address("https://host/a/b%20c.jpg?x=1").file_name) == "b_20c.jpg"
    assert str(as_address("rtsp://host:554").file_name) == "host"
    with pytest.raises(ImageError, match=r"^s3://bucket/a\.png: an address must begin with http, https, .*; download"):
        as_address("s3://bucket/a.png")


def test_a_missing_webcam_is_one_sentence():
    with pytest.raises(ImageError, match="webcam:99: no such camera, or another program uses it"):
        levels("webcam:99")


def test_a_playlist_of_the_web_opens_no_file(file_server, clip):
    """The playlist is served by the web server and names a file of this machine."""
    (clip.parent / "part.ts").write_bytes(as_transport_stream(clip))
    listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.6,\nfile://{clip.parent}/part.ts\n#EXT-X-ENDLIST\n"
    file_server.files["/list.m3u8"] = listed.encode()
    with pytest.raises(ImageError, match=r"list\.m3u8: (not a readable video|holds no video stream)"):
        levels(f"{file_server.url}/list.m3u8")


class RtspServer(socketserver.ThreadingTCPServer):
    """An RTSP server (RFC 2326) that plays one transport stream, in RTP packets inside of the TCP connection."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, stream):
        super().__init__(("127.0.0.1", 0), RtspSession)
        self.stream = stream
        self.url = f"rtsp://127.0.0.1:{self.server_address[1]}/live"
        self.methods = []


class RtspSession(socketserver.StreamRequestHandler):
    def handle(self):
        with contextlib.suppress(OSError):
            while (line := self.rfile.readline().decode()).strip():
                headers = dict(
                    header.split(": ", 1) for header in iter(lambda: self.rfile.readline().decode().strip(), "")
                )
                self.server.methods.append(method := line.split()[0])
                self.answer(method, headers)

    def answer(self, method, headers):
        lines = [
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=x",
            "c=IN IP4 127.0.0.1",
            "t=0 0",
            "m=video 0 RTP/AVP 33",
            "a=control:0",
        ]
        sdp = "".join(f"{line}\r\n" for line in lines)
        more, body = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
            "DESCRIBE": (f"Content-Base: {self.server.url}/\r\nContent-Type: application/sdp\r\n", sdp),
            "SETUP": ("Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""),
        }.get(method, ("Session: 1\r\n", ""))
        reply = f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
        self.wfile.write(reply.encode())
        if method == "PLAY":
            for number, first in enumerate(range(0, len(self.server.stream), 7 * 188)):
                rtp = (
                    struct.pack(">BBHII", 0x80, 33, number, number * 9000, 1)
                    + self.server.stream[first : first + 7 * 188]
                )
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)


@pytest.fixture
def rtsp(clip):
    with RtspServer(as_transport_stream(clip)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_rtsp_stream_gives_its_frames(rtsp):
    frames = list(itertools.islice(iterate_images(rtsp.url), 4))
    assert [name for name, _ in frames] == [f"{rtsp.url}#{number}" for number in range(4)]
    assert [round(float(image.mean())) for _, image in frames] == pytest.approx(GRAYS[:4], abs=3)
    assert rtsp.methods[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]


def test_an_rtsp_server_that_is_not_there_is_one_sentence():
    pytest.importorskip("av")
    with pytest.raises(ImageError, match=r"rtsp://127\.0\.0\.1:9/x: not a readable video: Connection refused"):
        levels("rtsp://127.0.0.1:9/x")
