"""Whole files or none; images upright, whatever their mode."""

import os
import re
import shlex
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from botvision.engine.settings import read_yaml
from botvision.files import clear_leftovers, read_json, whole_file, whole_folder, write_json
from botvision.inputs import as_tensor, find_images, header_size, image_suffixes, open_image, read_image, stream


def test_a_half_written_file_never_replaces_a_whole_one(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"whole": 1})

    def die(unfinished):
        unfinished.write_text("{half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError), whole_file(path) as unfinished:
        die(unfinished)
    assert read_json(path, what="file") == {"whole": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_json_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no COCO annotations at"):
        read_json(tmp_path / "gone.json", what="COCO annotations")
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"cut\.json is not JSON: .* is the file whole\?"):
        read_json(tmp_path / "cut.json", what="COCO annotations")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_every_mode_reads_as_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 200 * 257, np.uint16)).save(tmp_path / f"a.{suffix}")
    else:
        Image.new("RGB", (6, 4), (200, 10, 10)).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert tuple(image.shape) == (3, 4, 6)
    assert str(image.dtype) == "torch.uint8"
    assert abs(int(image[0, 0, 0]) - (67 if mode == "L" else 200)) < 5


def test_a_image_without_a_range_is_refused_by_name(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: mode F has no known range of brightness; replace"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("turn", [3, 6])
def test_a_turn_by_xmp_alone_is_none(tmp_path, turn):
    """Pillow turns by it; headers, other readers and labelling tools do not."""
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{turn}"/></x:xmpmeta>'
    left = np.zeros((16, 24, 3), np.uint8)
    left[:, :12] = 255
    Image.fromarray(left).save(tmp_path / "a.jpg", quality=95, xmp=xmp.encode())
    seen = read_image(tmp_path / "a.jpg")
    assert header_size(tmp_path / "a.jpg") == tuple(seen.shape[1:]) == (16, 24)
    assert seen[:, :, 2].float().mean() > 250
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    Image.fromarray(left).save(tmp_path / "a.jpg", quality=95, xmp=xmp.encode(), exif=exif)
    assert torch.equal(read_image(tmp_path / "a.jpg"), seen)


@pytest.mark.parametrize("kind", ["jpg", "webp", "png", "png, behind the pixels", "png, as text"])
def test_exif_turns_the_image_upright_wherever_it_lies(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{kind.split(',')[0]}"
    image = Image.new("RGB", (6, 4))
    if kind == "png, as text":
        told = PngInfo()
        content = exif.tobytes().hex()
        told.add_text("Raw profile type exif", f"\nexif\n{len(content) // 2}\n{content}\n", zip=True)
        image.save(path, pnginfo=told)
    else:
        image.save(path, exif=exif)
    if kind.endswith("pixels"):
        content = path.read_bytes()
        at = content.index(b"eXIf") - 4
        length = 12 + int.from_bytes(content[at : at + 4], "big")
        end = content.index(b"IEND") - 4
        path.write_bytes(content[:at] + content[at + length : end] + content[at : at + length] + content[end:])
    # behind the pixels it is not looked for, as a header is not
    assert tuple(read_image(path).shape) == ((3, 4, 6) if kind.endswith("pixels") else (3, 6, 4))
    assert header_size(path) == tuple(read_image(path).shape[1:])


@pytest.mark.parametrize("broken", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x01"])
def test_broken_exif_says_nothing(tmp_path, broken):
    for name in ("a.jpg", "a.webp"):
        Image.new("RGB", (6, 4)).save(tmp_path / name, exif=broken)
        assert tuple(read_image(tmp_path / name).shape) == (3, 4, 6)
    told = PngInfo()
    told.add_text("Raw profile type exif", "\nexif\n4\nzz\n")
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png", pnginfo=told)
    assert tuple(read_image(tmp_path / "a.png").shape) == (3, 4, 6)


def test_exif_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter right
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert tuple(read_image(tmp_path / "a.jpg").shape) == (3, 6, 4)


def test_files_folders_and_globs(tmp_path):
    for name in ("b.png", "a.jpg", "._a.jpg", "notes.txt"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    assert [p.name for p in find_images(tmp_path)] == ["a.jpg", "b.png"]
    assert [p.name for p in find_images(tmp_path / "b.png")] == ["b.png"]
    assert [p.name for p in find_images(f"{tmp_path}/*.png")] == ["b.png"]
    with pytest.raises(FileNotFoundError, match=r"no image at .*\*\.gif; give an image, a folder or a quoted glob of"):
        find_images(f"{tmp_path}/*.gif")
    (tmp_path / "below").mkdir()
    shutil.move(tmp_path / "b.png", tmp_path / "below")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"but in folders below it, e\.g\. .*b\.png; give '.*/\*\*/\*'") as told:
        find_images(tmp_path)
    pattern = re.search(r"give '(.*)' for all", str(told.value))[1]
    assert [p.name for p in find_images(pattern)] == ["b.png"]  # and not notes.txt


def test_a_glob_does_not_find_what_was_drawn_before(tmp_path, capsys):
    for name in ("set [2]/a.jpg", "set [2]/b/c.jpg", "set [2]/predictions/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "set [2]" / "a.jpg").rename(tmp_path / "set [2]" / "b" / "a.jpg")
    with pytest.raises(FileNotFoundError, match="but in folders below it") as told:
        find_images(tmp_path / "set [2]")
    (pattern,) = shlex.split(re.search(r"give ('.*') for all", str(told.value))[1])
    found = find_images(pattern, out=tmp_path / "set [2]" / "predictions")
    assert [p.name for p in found] == ["a.jpg", "c.jpg"]
    assert "1 of its files, in " in capsys.readouterr().err
    assert len(find_images(pattern, out=tmp_path / "set [2]")) == 3  # drawings among the images are refused elsewhere
    with pytest.raises(FileNotFoundError, match="the source is empty"):
        find_images("")


def test_a_image_is_named_where_another_library_opens_it(tmp_path, monkeypatch):
    """ultralytics, once imported, looks for a reader of HEIF files that may not be installed."""
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    plain = Image.open

    def open_or_import(source, *args, **options):
        try:
            return plain(source, *args, **options)
        except Image.UnidentifiedImageError:
            raise ModuleNotFoundError("No module named 'pi_heif'")  # noqa: B904 - as ultralytics does

    monkeypatch.setattr(Image, "open", open_or_import)
    with pytest.raises(ValueError, match=r"cannot read image .*a\.jpg: cannot identify .*; replace the file"):
        read_image(tmp_path / "a.jpg")


def test_a_truncated_image_is_named_and_the_stream_goes_on(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cannot read image .*b\.jpg: .*; replace the file or leave it out"):
        read_image(tmp_path / "b.jpg")
    read = list(stream(find_images(tmp_path)))
    assert [image is None for _, image, _ in read] == [False, True]
    assert "truncated" in read[1][2]


FORMATS = ["a.gif", "a.ppm", "a.jfif", "a.tga", "a.JPG", "a.webp", "a.ico", "a.dds"]


def test_a_folder_has_every_format_that_pillow_reads(tmp_path):
    for number, name in enumerate(FORMATS):
        kind = {"jfif": "JPEG", "JPG": "JPEG"}.get(name[2:])
        Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / f"{number}{name}", format=kind)
    for name in ("features.h5", "weather.grib", "film.mpg", "notes.txt", "list.pdf"):
        (tmp_path / name).write_bytes(b"no image")
    found = find_images(tmp_path)
    assert len(found) == len(FORMATS)
    assert all(tuple(read_image(path).shape) == (3, 16, 16) for path in found)
    assert {p.name for p in find_images(tmp_path, videos=True)} - {p.name for p in found} == {"film.mpg"}
    assert {".avif", ".png", ".mpo"} <= image_suffixes() | {".avif"}  # Pillow before 11.3 has no AVIF of its own


def test_of_an_animation_the_first_image_is_read(tmp_path):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.heic", r"it needs pillow-heif: pip install 'botvision\[heif\]'"),
        ("a.nef", "a camera's raw file; convert it to JPEG"),
        ("a.jxl", "Pillow reads no JPEG XL; convert"),
        ("a.eps", "PostScript is a program, which is not run here; convert it to PNG"),
    ],
)
def test_what_pillow_cannot_read_alone_is_found_and_named_with_its_cure(tmp_path, monkeypatch, name, cure):
    monkeypatch.setattr("botvision.inputs.image_suffixes", lambda: frozenset({".jpg"}))
    thumbnail = Image.new("RGB", (8, 8))
    thumbnail.save(tmp_path / name, format="TIFF") if name == "a.nef" else (tmp_path / name).write_bytes(b"ftypheic")
    assert [p.name for p in find_images(tmp_path)] == [name]
    with pytest.raises(ValueError, match=rf"cannot read image .*{name}: {cure}"):
        read_image(tmp_path / name)


def test_postscript_is_not_run_whatever_its_name(tmp_path, monkeypatch):
    """Pillow has Ghostscript run it; an upload's bytes need no name."""
    ran = tmp_path / "ran"
    for name in ("gs", "gswin64c.bat"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.eps").read_bytes())
    assert "EPS" in Image.OPEN
    with pytest.raises(ValueError, match=r"cannot read image .*b\.jpg: cannot identify image file"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"cannot read image \(upload\): cannot identify image file"):
        open_image("(upload)", (tmp_path / "b.jpg").read_bytes())
    assert header_size(tmp_path / "b.jpg") is None
    assert not ran.exists()


def test_heic_is_read_where_pillow_heif_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    assert ".heic" in image_suffixes()
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 10, 10))).save(tmp_path / "a.heic")
    assert tuple(read_image(tmp_path / "a.heic").shape) == (3, 48, 64)


@pytest.fixture
def server(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_image_is_read_from_its_address(server, tmp_path):
    Image.new("RGB", (6, 4), (200, 10, 10)).save(tmp_path / "a.png")
    (tmp_path / "page.html").write_text("<p>no image</p>")
    assert torch.equal(as_tensor(f"{server}/a.png?size=full"), read_image(tmp_path / "a.png"))
    with pytest.raises(ValueError, match=r"cannot fetch http://.*/b\.png: HTTP Error 404.*; check the address"):
        as_tensor(f"{server}/b.png")
    with pytest.raises(ValueError, match=r"cannot read image http://.*/page\.html: cannot identify"):
        as_tensor(f"{server}/page.html")


def test_what_people_hold_as_an_image_is_one_tensor(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    with Image.open(tmp_path / "a.png") as image:
        for same in (tmp_path / "a.png", str(tmp_path / "a.png"), image, image.convert("RGBA"), array, tensor):
            assert torch.equal(as_tensor(same), tensor)
    grey = as_tensor(array[..., 0])
    assert all(torch.equal(channel, tensor[0]) for channel in grey)
    assert as_tensor(tensor / 255).dtype == torch.float32
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert torch.equal(as_tensor(image), tensor.rot90(-1, (1, 2)))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.rand(3, 4, 4) * 255, ValueError, r"must lie in 0 … 1; got .*; divide by 255"),
        (torch.randn(3, 4, 4), ValueError, r"got -.*; give the image before it is normalised"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "must lie in 0 … 1; got nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), ValueError, r"of uint8, or of floats in 0 … 1; got torch\.int64"),
        (torch.zeros(4, 4, 3), ValueError, r"a tensor must be \(3, H, W\), RGB, or a batch .*; got \(4, 4, 3\)"),
        (torch.zeros(3, 0, 4), ValueError, r"got \(3, 0, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"an array must be \(H, W, 3\), RGB, or .*; got \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, "give several images as a list"),
        (np.zeros((4, 4, 3)), ValueError, r"must be of uint8; got float64; scale it to 0 … 255 and give array\.astype"),
        (
            Image.new("F", (4, 4)),
            ValueError,
            "cannot read the PIL image: mode F has no known range of brightness; give",
        ),
        (b"bytes", TypeError, r"an image is a path, an http\(s\) URL, a PIL image, .*; got bytes"),
        (None, TypeError, "got NoneType"),
        (".", ValueError, "is a folder; give a list of its images"),
        ("gone.png", FileNotFoundError, r"no image at gone\.png; check the folder"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_taken(image, error, message):
    with pytest.raises(error, match=message):
        as_tensor(image)


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    with (
        pytest.raises(IsADirectoryError, match=f"{tmp_path} is a folder; give the name of a file"),
        whole_file(tmp_path),
    ):
        pass
    with pytest.raises(OSError, match="a") as failed, whole_file(Path("/proc/a.json")):
        pass
    assert Path(failed.value.filename).name in {"a.json", "proc"}


def test_leftovers_of_killed_runs_are_removed_and_nothing_that_is_being_written(tmp_path):
    for name in (".unfinished-abcd1234.json", ".unfinished-set-abcd1234"):
        (tmp_path / name).mkdir() if name.endswith("set-abcd1234") else (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".set-backup").mkdir()  # somebody's own
    os.utime(tmp_path / ".set-backup", (0, 0))
    with whole_file(tmp_path / "a.json") as unfinished:
        os.utime(unfinished, (0, 0))
        clear_leftovers(tmp_path, stale=0)
        assert unfinished.exists()
        unfinished.write_text("whole")
    with whole_folder(tmp_path / "set") as unfinished:
        (unfinished / "x").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set-backup", "a.json", "set"]


def test_yaml_whose_aliases_stand_for_more_than_a_memory_holds_is_refused(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)))
    with pytest.raises(ValueError, match=r"data\.yaml has more than 100 aliases \(\*name\), which may fill the memory"):
        read_yaml(path, what="settings")
    path.write_text("a: &x [1]\nb: *x\nc: '" + "*" * 200 + "'")
    assert read_yaml(path, what="settings")["b"] == [1]


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")  # 50 kB on the disk
    with pytest.raises(ValueError, match=r"a\.png: it has more than 178,956,970 pixels, .*; cut it into tiles"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a.png"])
def test_an_images_address_leads_to_the_web_alone(place):
    """By redirection too."""

    class Elsewhere(SimpleHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ValueError, match=r"cannot fetch http://127.*; check the address"):
            read_image(f"http://127.0.0.1:{server.server_port}/a.png")
        server.shutdown()


def test_an_icon_of_a_stranger_is_not_decoded(tmp_path):
    """Pillow decodes it before its size is known."""
    Image.new("RGB", (48, 48)).save(tmp_path / "a.ico")
    assert tuple(read_image(tmp_path / "a.ico").shape) == (3, 48, 48)
    with pytest.raises(ValueError, match="cannot read image upload"):
        open_image("upload", (tmp_path / "a.ico").read_bytes())
