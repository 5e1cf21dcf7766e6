"""Find and read images: files, folders, globs, URLs and what a program holds, upright, as RGB."""

import glob
import io
import os
import re
import shlex
import struct
import sys
import time
import urllib.request
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from http.client import HTTPException
from importlib import import_module
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:  # deployed models read images without torch
    from torch import Tensor

Item = TypeVar("Item")
VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"}
)
HEIF = (".heic", ".heif", ".hif")
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
CURES = {  # images that Pillow does not read, or not alone
    **dict.fromkeys(HEIF, "it needs pillow-heif: pip install 'botvision[heif]'"),
    **dict.fromkeys(RAW, "a camera's raw file; convert it to JPEG, PNG or TIFF"),
    ".avif": "this Pillow reads no AVIF: pip install --upgrade pillow",
    ".jxl": "Pillow reads no JPEG XL; convert it to JPEG, PNG or TIFF",
    **dict.fromkeys((".eps", ".ps"), "PostScript is a program, which is not run here; convert it to PNG"),
}
FIRST = {"JPEG", "PNG", "GIF", "BMP", "PPM"}  # what a file is taken for first
PROGRAMS = {"EPS"}  # formats that Pillow has another program draw, which would run what a file holds
TAKEN = "a path, an http(s) URL, a PIL image, an array (H, W, 3) or (H, W) of uint8"
OR_TENSOR = ", or a tensor (3, H, W) of uint8 or of floats in 0 … 1"
SECONDS = 30  # that a server may be silent
LONGEST = 300  # seconds that an image may take from its server
MOST_BYTES = 2**28  # of an image from a server
PIECE = 2**20  # bytes


# what decoders say of broken files: Pillow's own, and those of the Python in its plug-ins
FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
          RuntimeError, EOFError, MemoryError, NotImplementedError, struct.error, zlib.error)  # fmt: skip
WEB = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)  # an address of any other kind, by redirection too, finds no handler


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of the files that the installed Pillow reads as images, in lower case, with pillow-heif's if it is there.

    Formats that Pillow only recognises (HDF5, GRIB, MPEG video) are none, nor is PostScript, which is a program.
    """
    readers = {name: Image.OPEN[name][0] for name in image_formats() if name != "MPEG"}
    stubs = {n for n, r in readers.items() if isinstance(r, type) and issubclass(r, ImageFile.StubImageFile)}
    formats = {*readers, "MPO"} - stubs  # JPEG's reader opens MPO
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def image_formats() -> tuple[str, ...]:
    """Formats that a file may be taken for, whatever its name: all that Pillow, with its plug-ins, reads by itself."""
    initialise()
    return tuple(sorted((name for name in Image.ID if name not in PROGRAMS), key=lambda name: name not in FIRST))


@cache
def initialise() -> None:
    """Let Pillow know its formats, and HEIF where pillow-heif is there."""
    Image.init()
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def opened(source: Path | io.BytesIO) -> Image.Image:
    """A file's image, of which the header alone has been read.

    Raises:
        OSError, ValueError and others of `FAULTS`: none, or none that is read here.
    """
    formats = image_formats()
    if isinstance(source, io.BytesIO):  # of a stranger: Pillow decodes an icon before its size is known
        formats = tuple(name for name in formats if name != "ICO")
    return Image.open(source, formats=formats)


def is_url(source: object) -> bool:
    """Whether it is an address on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def is_video(path: PurePath) -> bool:
    """Whether its name is a video's."""
    return path.suffix.lower() in VIDEOS


def find_images(source: str | Path, *, videos: bool = False, out: Path | None = None) -> list[Path]:
    """Paths of an image, of a folder's images (sorted, not in subfolders), or of a glob's.

    A folder's images are the files that Pillow reads by their suffix, and those whose suffix tells what it lacks; a
    glob's too, unless it finds none of these.

    Args:
        source: an image, a folder or a glob.
        videos: find a folder's videos too.
        out: folder of earlier drawings: what lies there a glob does not find, unless all does.

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    if not str(source):
        raise FileNotFoundError("the source is empty; give an image, a folder or a quoted glob")
    path = Path(source)
    wanted = image_names() | (VIDEOS if videos else set())
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in wanted and not is_hidden(p, path))
    elif path.is_file():
        found = [path]
    else:
        every = sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file())  # noqa: PTH207
        if out is not None:
            into = out.resolve()
            drawn = {p for p in every if p.resolve().is_relative_to(into)}
            if 0 < len(drawn) < len(every):
                every = [p for p in every if p not in drawn]
                print(
                    f"{source}: {len(drawn)} of its files, in {out}, where the results go, are left out",
                    file=sys.stderr,
                )
        found = [p for p in every if p.suffix.lower() in wanted] or every
    if not found:
        below = next((p for p in path.glob("*/**/*") if p.suffix.lower() in wanted), None)
        if below is not None:
            raise FileNotFoundError(
                f"no image in {source} itself, but in folders below it, e.g. {below}; give "
                f"{shlex.quote(str(Path(glob.escape(str(path))) / '**' / '*'))} for all of them"
            )
        raise FileNotFoundError(
            f"no image at {source}; give an image, a folder or a quoted glob of files that Pillow reads, such as .jpg, "
            ".png or .webp"
        )
    return found


def folder_of(source: str | Path) -> Path:
    """The folder that file names of a source are relative to: itself, or what comes before a glob's first wildcard."""
    path = Path(source)
    if path.is_dir():
        return path
    fixed = path.parent
    while glob.has_magic(str(fixed)) and not fixed.exists():
        fixed = fixed.parent
    return fixed


def most_pixels() -> float:
    """Pixels of the largest image that is decoded: twice Pillow's MAX_IMAGE_PIXELS, from which it refuses them too."""
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def image_names() -> frozenset[str]:
    """Endings of files that are meant as images: those that are read, and those whose lack is known."""
    return image_suffixes() | CURES.keys()


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file, or a folder on its way below a root, begins with a dot: copies of editors and notebooks."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


ON_THE_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def header_size(source: Path | io.BytesIO) -> tuple[int, int] | None:
    """(height, width) of an upright image by its header alone; none where it cannot be told so."""
    found = header(source)
    return None if found is None else found[:2]


def header(source: Path | io.BytesIO) -> tuple[int, int, bool] | None:
    """`header_size`, and whether a tag turns or mirrors the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with opened(source) as image:
                turn = orientation(image)
                width, height = image.size
                return (width, height, True) if turn in ON_THE_SIDE else (height, width, turn != 1)
    except Exception:  # whatever a decoder says of a broken file: reading it says it again, with its name
        return None


def orientation(image: Image.Image) -> int:
    """An image's EXIF tag, by which it is shown turned or mirrored; 1 as it is. Pillow turns a TIFF itself.

    Not XMP's, which Pillow would take where EXIF has none: other readers and labelling tools do not. Nor what lies
    behind a PNG's pixels, where a header is not looked for.
    """
    content, exif = image.info.get("exif"), Image.Exif()
    try:
        if content is None and isinstance(raw := image.info.get("Raw profile type exif"), str):
            content = bytes.fromhex("".join(raw.split("\n")[3:]))
        if content:
            exif.load(content)
        return int(exif.get(0x0112, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, struct.error):  # a broken tag says nothing
        return 1


def read_image(path: str | Path) -> "Tensor":
    """An image as (3, H, W) uint8 RGB, turned upright by its EXIF tag; alpha and palettes become plain RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or a truncated one; an address that gives none.
    """
    return pixels(open_image(path))


def pixels(image: Image.Image | NDArray[np.uint8]) -> "Tensor":
    """An RGB image, or (H, W, 3) of one, as (3, H, W)."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_image(path: str | Path, content: bytes | None = None, *, most: float | None = None) -> Image.Image:
    """An image as RGB, turned upright by its EXIF tag; of an animation the first image.

    Args:
        path: a file, or an http(s) URL.
        content: its bytes, where they are at hand.
        most: pixels, where fewer than `most_pixels()` are let in.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or a truncated one; an address that gives none.
    """
    if content is None and is_url(path):
        content = fetch(str(path))
    elif content is None and not Path(path).is_file():
        raise FileNotFoundError(f"no image at {path}; check the folder and the file name")
    most = most_pixels() if most is None else most
    suffix = PurePath(path).suffix.lower()
    cure = CURES.get(suffix) if suffix not in image_suffixes() else None
    if suffix in RAW:  # some hold a thumbnail that Pillow would take for the image
        raise ValueError(f"cannot read image {path}: {cure}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd files, and of half the size that is refused
            with opened(Path(path) if content is None else io.BytesIO(content)) as image:
                if image.height * image.width > most:
                    raise Image.DecompressionBombError
                return upright(image)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"cannot read image {path}: it has more than {most:,.0f} pixels, from which images are refused lest they "
            "fill the memory; cut it into tiles"
        ) from error
    except (*FAULTS, UnidentifiedImageError) as error:
        raise ValueError(unreadable(path, error, cure)) from error
    except ImportError as error:  # ultralytics puts an Image.open in PIL's place that then asks for a HEIF reader
        if not isinstance(error.__context__, UnidentifiedImageError):
            raise
        raise ValueError(unreadable(path, error.__context__, cure)) from error


def unreadable(path: str | Path, error: BaseException, cure: str | None) -> str:
    """What to say of an image that is none: what it lacks, or why not."""
    reason = re.sub(r" <_io.BytesIO[^>]*>", "", " ".join(str(error).split())) or type(error).__name__
    return f"cannot read image {path}: " + (cure or f"{reason:.300}; replace the file or leave it out")


def fetch(url: str) -> bytes:
    """What is at an address, by http and https alone, whatever it redirects to.

    Raises:
        ValueError: no answer, a refusal, or more than an image has.
    """
    opener = urllib.request.OpenerDirector()
    for handler in WEB:
        opener.add_handler(handler())
    request = urllib.request.Request(url, headers={"User-Agent": "botvision"})  # some servers refuse Python's own
    content, begun = bytearray(), time.monotonic()
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            while piece := answer.read1(PIECE):
                content += piece
                if len(content) > MOST_BYTES or time.monotonic() - begun > LONGEST:
                    raise OSError(f"more than {MOST_BYTES >> 20} MiB, or {LONGEST} s; download it and give its path")
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(f"cannot fetch {url}: {error}; check the address and the connection") from error
    return bytes(content)


def upright(image: Image.Image) -> Image.Image:
    """Turned by its EXIF tag, as RGB."""
    return to_rgb(image if orientation(image) == 1 else ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; 16-bit grey keeps its upper eight bits.

    Raises:
        OSError: 32-bit integers or floats, whose range an image does not tell.
    """
    if image.mode in {"I", "F"}:
        raise OSError(f"mode {image.mode} has no known range of brightness")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


LONGEST_SHAPE = 64  # times as long as wide, of an image that is resized whole


def without_ends(image: Image.Image) -> Image.Image:
    """An image without the ends of a very long side, which the crop of a square at its centre leaves out anyway.

    Resized whole, by its shorter side, a file of a few bytes would fill the memory.
    """
    short, long = min(image.size), max(image.size)
    if long <= LONGEST_SHAPE * short:
        return image
    cut = (long - 4 * short) // 2
    left, top = (cut, 0) if image.width == long else (0, cut)
    return image.crop((left, top, image.width - left, image.height - top))


def as_array(image: object, *, taken: str = TAKEN) -> NDArray[np.uint8]:
    """What people hold as an image as (H, W, 3) RGB of uint8, upright; without torch.

    Args:
        image: a path, an http(s) URL, a PIL image or an array.
        taken: what a refusal says is taken.

    Raises:
        FileNotFoundError: no such file.
        TypeError: none of these.
        ValueError: a file that is no image; an array of another shape or type; more pixels than are decoded.
    """
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise ValueError(f"{image} is a folder; give a list of its images, or use botvision maskrcnn predict")
        return np.array(open_image(image))
    if isinstance(image, Image.Image):
        check_pixels(image.height, image.width)
        try:
            return np.array(upright(image))
        except OSError as error:
            raise ValueError(f"cannot read the PIL image: {error}; give it as RGB, or as 8-bit grey (L)") from error
    if isinstance(image, np.ndarray):
        return from_array(image)
    raise TypeError(f"an image is {taken}; got {type(image).__name__}")


def from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """An array (H, W, 3) RGB or (H, W) grey of uint8 as (H, W, 3).

    Raises:
        ValueError: another shape or type, or more pixels than are decoded.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise ValueError(
            f"an array must be (H, W, 3), RGB, or (H, W), grey; got {array.shape}; give several images as a list"
        )
    if array.dtype != np.uint8:
        raise ValueError(
            f"an array must be of uint8; got {array.dtype}; scale it to 0 … 255 and give array.astype(np.uint8)"
        )
    check_pixels(*array.shape[:2])
    return np.broadcast_to(array if array.ndim == 3 else array[..., None], (*array.shape[:2], 3))


def check_pixels(height: int, width: int) -> None:
    """Refuse what would fill the memory.

    Raises:
        ValueError: more pixels than `most_pixels()`.
    """
    if height * width > most_pixels():
        raise ValueError(
            f"an image of {width}×{height} has more than {most_pixels():,.0f} pixels, from which images are refused "
            "lest they fill the memory; cut it into tiles"
        )


def as_tensor(image: object) -> "Tensor":
    """What people hold as an image as (3, H, W) RGB: uint8, or floats in 0 … 1 where it was a tensor of floats.

    Raises:
        FileNotFoundError, TypeError, ValueError: as `as_array`; a tensor of another shape or range.
    """
    return checked(image) if is_tensor(image) else pixels(as_array(image, taken=TAKEN + OR_TENSOR))


def is_tensor(image: object) -> TypeGuard["Tensor"]:
    """Whether it is one of torch's."""
    from torch import Tensor

    return isinstance(image, Tensor)


def checked(image: "Tensor") -> "Tensor":
    """The tensor (3, H, W) itself.

    Raises:
        ValueError: another shape or type, or floats outside 0 … 1.
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"a tensor must be (3, H, W), RGB, or a batch (B, 3, H, W); got {tuple(image.shape)}")
    import torch

    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(f"a tensor must be of uint8, or of floats in 0 … 1; got {image.dtype}; give image.byte()")
    low, high = (float(side) for side in image.aminmax())
    if not (low >= 0 and high <= 1):
        cure = "divide by 255" if low >= 0 and high <= 255 else "give the image before it is normalised"
        raise ValueError(f"floats of an image must lie in 0 … 1; got {low:.4g} … {high:.4g}; {cure}")
    return image


def lots(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size`, the last one shorter."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def stream(paths: Iterable[str | Path], *, ahead: int = 8) -> Iterator[tuple[str | Path, "Tensor | None", str]]:
    """Each path with its image, or with None and the reason where it cannot be read.

    Args:
        paths: in the order in which they come.
        ahead: images that are read before they are asked for, by threads.
    """
    waiting: deque[Future[tuple[str | Path, Tensor | None, str]]] = deque()
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1)) as readers:
        for path in paths:
            waiting.append(readers.submit(attempt, path))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def attempt(path: str | Path) -> tuple[str | Path, "Tensor | None", str]:
    """The path with its image, or with None and the reason."""
    try:
        return path, read_image(path), ""
    except (ValueError, FileNotFoundError) as error:
        return path, None, str(error)
