"""Whole files or none; images upright, whatever their mode."""

import numpy as np
import pytest
from PIL import Image

from botvision.files import read_json, whole_file, write_json
from botvision.inputs import find_images, read_image, stream


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


def test_exif_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter right
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert tuple(read_image(tmp_path / "a.jpg").shape) == (3, 6, 4)


def test_files_folders_and_globs(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    assert [p.name for p in find_images(tmp_path)] == ["a.jpg", "b.png"]
    assert [p.name for p in find_images(tmp_path / "b.png")] == ["b.png"]
    assert [p.name for p in find_images(f"{tmp_path}/*.png")] == ["b.png"]
    with pytest.raises(FileNotFoundError, match=r"no image at .*\*\.gif; give an image, a folder or a quoted glob"):
        find_images(f"{tmp_path}/*.gif")


def test_a_image_is_named_where_another_library_opens_it(tmp_path, monkeypatch):
    """ultralytics, once imported, looks for a reader of HEIF files that may not be installed."""
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    plain = Image.open

    def open_or_import(source):
        try:
            return plain(source)
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
