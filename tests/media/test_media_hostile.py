"""Bad input: every file ends in a typed error with its reason, or in a true answer."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from media_samples import Recipe, moving_pictures, write
from test_media_frames import zero_packets

from tidegate.errors import CorruptMedia, MediaError, NotMedia, NoVideoStream, SourceUnreadable
from tidegate.media import container as container_module
from tidegate.media import encode_video, probe, read_audio, read_clip, read_frames
from tidegate.types import AudioChunk, ClipRequest

Sample = Callable[[str], Path]


def test_an_empty_file_is_not_media(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(NotMedia, match="empty file"):
        probe(tmp_path / "empty.mp4")


TEXTS = {
    "prose.mp4": b"Call me Ishmael. Some years ago - never mind how long precisely\n" * 50,
    "table.csv": b"a,b,c\n1,2,3\n" * 100,
    "code.py": b"import os\nprint(os.name)\n" * 40,
    "subtitles.srt": b"1\n00:00:01,000 --> 00:00:04,000\nHello\n\n" * 20,
    "subtitles.ass": b"[Script Info]\nScriptType: v4.00+\n[Events]\n" * 5,
    "ansi.txt": b"\x1b[31mred\x1b[0m plain\r\n" * 60,
    "page.html": b"<!DOCTYPE html><html><body>hello</body></html>" * 20,
    "picture.svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>' * 3,
    "program": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 20,
    "zeros": bytes(10_000),
    "one": b"x",
    "zip": b"PK\x03\x04" + bytes(200),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_not_media_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(TEXTS[name])
    with pytest.raises(NotMedia, match="expected content of a video container"):
        probe(tmp_path / name)


def test_random_bytes_are_a_typed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        (tmp_path / "noise.mp4").write_bytes(rng.bytes(int(rng.integers(1, 20_000))))
        with pytest.raises((NotMedia, CorruptMedia, NoVideoStream)):
            probe(tmp_path / "noise.mp4")


def playlists(secret: Path, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/x.mp4"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S" '
        'profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet mimeType="video/mp4"><Representation '
        'id="1" bandwidth="1000"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    return {
        "hls-file.m3u8": hls.format(secret),
        "hls-file.mp4": hls.format(f"file://{secret}"),
        "hls-url.m3u8": hls.format(url),
        "concat.ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "concat.txt": f"file '{secret}'\n",
        "dash.mpd": dash.format(url),
        "dash-file.mpd": dash.format(secret),
        "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "list.asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
        "rtsp.ram": f"rtsp://127.0.0.1:{port}/x\n",
        "imf.xml": f'<AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"><Path>{secret}</Path></AssetMap>',
    }


@pytest.mark.parametrize("name", playlists(Path("x"), 1))
def test_files_that_refer_to_other_files_or_addresses_open_nothing(tmp_path: Path, sample: Sample, name: str) -> None:
    secret = tmp_path / "secret.mp4"
    shutil.copy(sample("h264-mp4"), secret)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        text = playlists(secret, server.getsockname()[1])[name]
        (tmp_path / name).write_text(text)
        with pytest.raises(NotMedia):
            read_clip(tmp_path / name, ClipRequest(), video_id="x")
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", ["concat:{0}|{0}", "http://127.0.0.1:9/x.mp4", "%d.png", "pipe:0", "lavfi:testsrc"])
def test_names_are_only_names(tmp_path: Path, sample: Sample, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(sample("h264-mp4"), tmp_path / "1.png")
    with pytest.raises(SourceUnreadable, match="No such file"):
        probe(name.format(tmp_path / "1.png"))


def test_what_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in [
        (tmp_path / "gone.mp4", "No such file"),
        (tmp_path, "a folder"),
        (tmp_path / "fifo", "a FIFO"),
        (Path("/dev/zero"), "a device"),
        ("nul\0byte.mp4", "null byte"),
    ]:
        with pytest.raises(SourceUnreadable, match=reason):
            probe(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(tmp_path: Path, sample: Sample) -> None:
    path = shutil.copy(sample("h264-mp4"), tmp_path / "locked.mp4")
    os.chmod(path, 0)
    with pytest.raises(SourceUnreadable, match="Permission denied"):
        probe(path)


def test_a_denied_permission_is_unreadable(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(SourceUnreadable, match="Permission denied"):
        probe(sample("h264-mp4"))


def test_audio_only_has_no_video_stream(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(NoVideoStream, match="got audio"):
        probe(tmp_path / "a.m4a")
    assert read_audio(tmp_path / "a.m4a") is not None


def test_cover_art_is_not_video(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(moving_pictures(1)[0]).save(tmp_path / "cover.jpg")
    with av.open(str(tmp_path / "song.mp3"), "w") as container, av.open(str(tmp_path / "cover.jpg")) as cover:
        sound = container.add_stream("libmp3lame", rate=16_000, layout="mono")
        art = container.add_stream_from_template(cover.streams.video[0])
        art.disposition = av.stream.Disposition.attached_pic
        packet = next(cover.demux(video=0))
        packet.stream = art
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(packet)
        container.mux(sound.encode(None))
    with pytest.raises(NoVideoStream, match="cover art"):
        probe(tmp_path / "song.mp3")


def test_an_mp4_cut_before_its_index_is_corrupt_and_not_unknown(tmp_path: Path, sample: Sample) -> None:
    data = sample("h264-mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptMedia, match="MP4/QuickTime file, got one that does not open"):
        probe(tmp_path / "cut.mp4")


@pytest.mark.parametrize("name", ["h264-ts", "h264-mkv", "h264-flv", "mpeg4-avi"])
def test_a_truncated_stream_plays_in_part(tmp_path: Path, sample: Sample, name: str) -> None:
    data = sample(name).read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(data[: len(data) * 3 // 5])
    info, clip = read_clip(path, ClipRequest(), video_id="x")
    assert 10 < info.num_frames < 75
    assert clip.frames is not None
    assert info.warnings or name == "h264-ts"  # a transport stream has no header that could disagree


def test_broken_audio_beside_good_video_is_told_and_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "whole.mp4"
    tone = np.sin(np.arange(48_000) / 5).astype(np.float32) / 2
    encode_video(path, moving_pictures(60), 20, AudioChunk(tone, 16_000))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    (tmp_path / "noisy.mp4").write_bytes(data)
    info, clip = read_clip(tmp_path / "noisy.mp4", ClipRequest(), video_id="x")
    assert clip.audio is None
    assert clip.frames is not None
    assert len(info.audio_tracks) == 1
    assert any(warning.startswith("audio undecodable") for warning in info.warnings)
    with pytest.raises(CorruptMedia, match="audio undecodable"):
        read_audio(tmp_path / "noisy.mp4")


def test_video_of_zeros_is_corrupt(tmp_path: Path, sample: Sample) -> None:
    broken = zero_packets(sample("h264-mp4"), tmp_path / "zeros.mp4", 0.0, 1.0)
    with pytest.raises(CorruptMedia):
        read_frames(broken, [0.5])


def test_a_picture_size_that_changes_midway_is_scaled_to_the_first(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{w}.ts", Recipe(suffix="ts", format="mpegts", width=w, height=64)) for w in (96, 64)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    _, clip = read_clip(joined, ClipRequest(num_frames=4), video_id="x")
    assert clip.frames is not None
    assert clip.frames.frames_THWC.shape == (4, 64, 96, 3)


def test_a_file_that_vanishes_while_it_is_read_is_still_read(tmp_path: Path, sample: Sample) -> None:
    path = shutil.copy(sample("h264-mp4"), tmp_path / "short-lived.mp4")
    info = probe(path)
    path.unlink()
    assert info.num_frames == 75
    with pytest.raises(SourceUnreadable):
        read_frames(path, [0.0])


def test_many_threads_read_at_once(sample: Sample) -> None:
    path, failures = sample("h264-mp4"), []
    expected = read_frames(path, [1.0]).frames_THWC

    def read() -> None:
        if not np.array_equal(read_frames(path, [1.0]).frames_THWC, expected):
            failures.append("differs")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_no_descriptor_is_left_open(tmp_path: Path, sample: Sample) -> None:
    (tmp_path / "bad.mp4").write_bytes(sample("h264-mp4").read_bytes()[:3000])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_clip(sample("h264-mp4"), ClipRequest(), video_id="x")
        with pytest.raises(MediaError):
            probe(tmp_path / "bad.mp4")
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_track_in_an_unusual_layout_is_mixed_down(tmp_path: Path) -> None:
    path = write(tmp_path / "surround.mkv", Recipe(suffix="mkv", audio=("aac", 48_000, "5.1"), count=30))
    audio = read_audio(path)
    assert audio is not None
    assert np.abs(audio.samples).max() > 0.1


def test_a_stream_that_appears_midway_is_refused(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV raises IndexError for packets of a stream that FFmpeg adds on the way (found by fuzzing FLV and MPEG-TS)."""
    path, original = sample("h264-flv"), container_module.av.open

    class Announcing:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self._inner = original(*args, **kwargs)

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def demux(self, *streams: object):
            yield next(self._inner.demux(*streams))
            raise IndexError("list index out of range")

    monkeypatch.setattr(container_module.av, "open", Announcing)
    with pytest.raises(CorruptMedia, match="another one midway"):
        probe(path)
