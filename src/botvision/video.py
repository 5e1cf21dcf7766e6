"""Read videos and cameras frame by frame, upright, as RGB; write MP4 files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from botvision.files import whole_file

CLOCK = Fraction(1, 60_000)  # of a second: a tick of what is written; every codec's limit is above it
USUAL = 25.0  # frames a second, where a file does not say
ESTIMATED = ("mpegts", "mpeg")  # containers of whose length FFmpeg has no word but the times in them


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 0.
        time: seconds since the first frame.
        image: (3, H, W) uint8 RGB, upright.
    """

    number: int
    time: float
    image: Tensor


class VideoInfo(NamedTuple):
    """What a file says of its video.

    Attributes:
        rate: frames a second.
        frames: how many, where it says.
    """

    rate: float
    frames: int | None


def camera_name(source: str) -> str | None:
    """The camera that `camera:0` or `0` names, unless a file has this name; None for anything else."""
    name = source.removeprefix("camera:")
    return name if (name != source and name) or (source.isdigit() and not Path(source).exists()) else None


def device_of(camera: str) -> tuple[str, str]:
    """How ffmpeg names a camera on this system: its file and its format.

    Raises:
        ValueError: by number on Windows, where cameras have names alone.
    """
    if sys.platform == "darwin":
        return camera, "avfoundation"
    if sys.platform == "win32":
        if camera.isdigit():
            raise ValueError(f"camera:{camera}: on Windows cameras are opened by name; e.g. 'camera:Integrated Camera'")
        return f"video={camera}", "dshow"
    return (f"/dev/video{camera}" if camera.isdigit() else camera), "v4l2"


@contextmanager
def opened(source: str | Path, camera: str | None) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream.

    Raises:
        ValueError: no video, or none that can be opened.
    """
    cure = "replace the file or leave it out" if camera is None else "is it plugged in, and does nothing else use it?"
    file, form = (str(source), None) if camera is None else device_of(camera)
    try:
        # a playlist may call itself a film, and name addresses
        container = av.open(file, format=form, options={"protocol_whitelist": "file"} if camera is None else None)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"cannot open video {source}: {error}; {cure}") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"cannot open video {source}: it holds no pictures; {cure}")
        yield container, container.streams.video[0]


def video_info(source: str | Path) -> VideoInfo:
    """Frame rate and length of a file.

    Raises:
        ValueError: no video, or none that can be opened.
    """
    with opened(source, None) as (_, stream):
        return VideoInfo(rate_of(stream), stream.frames or None)


def rate_of(stream: Any) -> float:
    """Frames a second."""
    return float(stream.average_rate or stream.guessed_rate or USUAL)


def read_video(source: str | Path, *, camera: str | None = None) -> Iterator[Frame]:
    """The frames of a video, turned upright by its own note; a camera's have no end.

    Args:
        source: the file, or what to call the camera in messages.
        camera: by `camera_name`.

    Raises:
        ValueError: no video, or one that breaks off; the frames before the break have been given.
    """
    number, begin, end, shift = -1, 0.0, 0.0, 0.0
    with opened(source, camera) as (container, stream):
        rate = rate_of(stream)
        if camera is None:
            stream.thread_type = "AUTO"  # several frames at a time, which delays a camera's
        try:
            for number, decoded in enumerate(container.decode(stream)):
                seconds = shift + (number / rate if decoded.time is None else float(decoded.time))
                if number and seconds < end - 2 / rate:  # a clock that begins again: recordings one behind the other
                    seconds, shift = end, shift + end - seconds
                begin = seconds if number == 0 else begin
                held = getattr(decoded, "duration", None) or 0  # PyAV before 15 does not tell
                end = seconds + max(1 / rate, float(held * decoded.time_base) if held else 0.0)
                image = np.rot90(decoded.to_ndarray(format="rgb24"), decoded.rotation // 90)
                yield Frame(number, seconds - begin, torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
        except av.error.FFmpegError as error:
            raise ValueError(f"cannot read video {source} after {number + 1} frames: {error}") from error
        if number >= 0 and camera is None:
            check_whole(source, container, stream, frames=number + 1, end=end)
    if number < 0:
        raise ValueError(f"cannot read video {source}: it holds no frame; replace the file or leave it out")


def check_whole(source: str | Path, container: Any, stream: Any, *, frames: int, end: float) -> None:
    """Refuse a video that ends clearly before its header says: decoders take a file that was cut off for its end.

    The length of MPEG streams (.ts, .mts, .mpg) is made of what is there, fragmented MP4 files have none, and a
    Matroska file with sound has that of the longer of the two: these are taken as they come.

    Args:
        frames: that were decoded.
        end: seconds at which the last of them ends, from the file's zero.

    Raises:
        ValueError: it was cut off.
    """
    if container.format.name in ESTIMATED or stream.frames == frames:
        return
    begin = 0.0
    if stream.duration is not None:  # of what is shown: less than all frames, where an edit list leaves some out
        length = float(stream.duration * stream.time_base)
        begin = float((stream.start_time or 0) * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        length = container.duration / av.time_base
    else:
        return
    if end - begin < length - min(max(0.5, 0.02 * length), 2.0):
        raise ValueError(
            f"cannot read video {source} after {frames} frames: it ends at {end - begin:.1f} s, and should last "
            f"{length:.1f} s; is the file whole?"
        )


class VideoWriter:
    """Frames into an open MP4 file, each shown at its own time; sound is not copied."""

    def __init__(self, container: Any, rate: float) -> None:
        self.container = container
        self.rate = Fraction(rate).limit_denominator(1001)
        self.stream: Any = None
        self.last = -1

    def write(self, image: NDArray[np.uint8], seconds: float) -> None:
        """A frame (H, W, 3) RGB at its time; for H.264 an odd last row or column is left out, a lone one doubled."""
        image = image.repeat(1 + (image.shape[0] == 1), 0).repeat(1 + (image.shape[1] == 1), 1)
        height, width = (side // 2 * 2 for side in image.shape[:2])
        if self.stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=self.rate)
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
            self.stream.codec_context.time_base = CLOCK
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        self.last = max(self.last + 1, round(seconds / CLOCK))
        frame.pts, frame.time_base = self.last, CLOCK
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        """The frames that the codec still holds."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())


@contextmanager
def video_writer(path: Path, *, rate: float) -> Iterator[VideoWriter]:
    """Write an MP4 file, whole or not at all.

    Args:
        path: ends in .mp4.
        rate: frames a second, for the codec.
    """
    with whole_file(path) as unfinished, av.open(str(unfinished), "w") as container:
        writer = VideoWriter(container, rate)
        yield writer
        writer.finish()
