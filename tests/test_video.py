"""Frames of a video: all, upright, at their times; written whole or not at all."""

import struct
from collections import deque
from fractions import Fraction

import av
import numpy as np
import pytest

from botvision.video import camera_name, device_of, read_video, video_info, video_writer

TIMES = [0, 1 / 30, 2 / 30, 0.6]


@pytest.fixture
def video(tmp_path):
    """Four frames of 64×96 px, a dark one and brighter ones, red at the upper left, the last one late."""
    path = tmp_path / "a.mp4"
    with video_writer(path, rate=30) as writer:
        for number, time in enumerate(TIMES):
            image = np.full((65, 97, 3), number * 40, np.uint8)
            image[:20, :30] = (255, 0, 0)
            writer.write(image, time)
    return path


def test_frames_come_back_in_their_order_at_their_times(video):
    frames = list(read_video(video))
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert [frame.time for frame in frames] == pytest.approx(TIMES, abs=1e-4)
    assert {tuple(frame.image.shape) for frame in frames} == {(3, 64, 96)}
    assert [int(frame.image[1, 50, 80]) for frame in frames] == pytest.approx([0, 40, 80, 120], abs=4)
    assert video_info(video) == (pytest.approx(30, abs=25), 4)


def test_a_video_is_turned_upright(video, tmp_path):
    """A telephone writes frames as the sensor has them, and a matrix; this one turns a quarter to the right."""
    content = bytearray(video.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 64 * 65536, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    image = next(iter(read_video(tmp_path / "turned.mp4"))).image
    assert tuple(image.shape) == (3, 96, 64)
    assert image[0, :30, -20:].float().mean() > 200
    assert image[0, 40:].float().mean() < 20


@pytest.mark.parametrize(("name", "form"), [("a.mp4", "mp4"), ("a.mov", "mov"), ("a.mkv", "matroska")])
def test_a_video_that_was_cut_off_is_told_from_a_whole_one(tmp_path, name, form):
    """Decoders take the cut for its end; the header says how long it should last."""
    path, images = tmp_path / name, np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)
    with av.open(str(path), "w", format=form, options={"movflags": "faststart"} if form != "matroska" else {}) as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in images:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    assert len(list(read_video(path))) == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before: deque[int] = deque()
    with pytest.raises(ValueError, match=r"it ends at [01]\.\d s, and should last 2\.4 s; is the file whole\?"):
        before.extend(frame.number for frame in read_video(path))
    assert 10 < len(before) < 50


def written(path, times, *, form, rate=25):
    """A video whose frames are shown at these times, in seconds."""
    with av.open(str(path), "w", format=form) as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            image = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.parametrize("form", ["matroska", "mp4", "mpegts"])
@pytest.mark.parametrize("times", [[2 + n / 25 for n in range(30)], [0, 0.04, 0.08, 0.12, 2.5], [0, 1, 2, 3, 3.04]])
def test_a_whole_video_of_odd_times_is_no_cut_one(tmp_path, form, times):
    """It begins late, or holds a frame for long."""
    written(tmp_path / "a", times, form=form)
    frames = list(read_video(tmp_path / "a"))
    assert len(frames) == len(times)


def test_a_clock_that_begins_again_goes_on(tmp_path):
    """Two recordings of a stream, one behind the other."""
    written(tmp_path / "a.ts", [n / 25 for n in range(10)], form="mpegts")
    content = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "two.ts").write_bytes(content + content)
    times = [frame.time for frame in read_video(tmp_path / "two.ts")]
    assert len(times) == 20
    steps = np.diff(times)
    assert steps.min() > 0.03
    assert steps.max() < 0.1


def test_a_video_of_one_pixel_can_be_written(tmp_path):
    with video_writer(tmp_path / "a.mp4", rate=25) as writer:
        writer.write(np.full((1, 1, 3), 200, np.uint8), 0.0)
    (frame,) = read_video(tmp_path / "a.mp4")
    assert tuple(frame.image.shape) == (3, 2, 2)


def test_half_a_video_is_not_left(tmp_path):
    def die(writer):
        writer.write(np.zeros((32, 32, 3), np.uint8), 0.0)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError), video_writer(tmp_path / "a.mp4", rate=30) as writer:
        die(writer)
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"cannot open video .*a\.mp4: .*; replace the file or leave it out"):
        video_info(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"cannot open video .*gone\.mp4: .*No such file"):
        next(read_video(tmp_path / "gone.mp4"))


@pytest.mark.parametrize(
    ("source", "name"), [("camera:0", "0"), ("0", "0"), ("camera:/dev/video7", "/dev/video7"), ("camera:", None)]
)
def test_cameras_have_names(source, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert camera_name(source) == name
    (tmp_path / "0").touch()
    assert camera_name("0") is None


@pytest.mark.parametrize(
    ("system", "device"), [("linux", ("/dev/video0", "v4l2")), ("darwin", ("0", "avfoundation")), ("win32", None)]
)
def test_a_camera_is_opened_as_its_system_names_it(system, device, monkeypatch):
    monkeypatch.setattr("sys.platform", system)
    if device is None:
        with pytest.raises(ValueError, match="on Windows cameras are opened by name"):
            device_of("0")
        assert device_of("Integrated Camera") == ("video=Integrated Camera", "dshow")
    else:
        assert device_of("0") == device
