"""Every dependency that users get is listed with its licence, and the core's are ones that it can ask for."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
licences = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(licences)
FIT = {  # permissive, or with terms that stay with their own files
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
}  # fmt: skip
BRINGS_GPL = {
    "av": "LGPL, version 3 or later, and beside it libx264 and libx265",
    "pillow-heif": "`pillow-heif`'s bring libheif (LGPL) and libx265 (GPL)",
}
NEEDED = licences.needed()
LISTED = dict(re.findall(r"^\| `([\w.-]+)` \| (?:.*) \| (.*) \|$", licences.PAGE.read_text(), re.MULTILINE))


def parts(licence):
    return {part.strip(" ()") for part in re.split(r" AND | OR ", licence)}


@pytest.mark.parametrize(("name", "package"), [(n, p) for n, own in NEEDED.items() for p in own])
def test_a_dependency_is_listed_and_its_licence_fits(name, package):
    assert package in LISTED, "run make licences"
    licence = licences.licence_of(package)
    if licence is None:
        assert LISTED[package]
        return
    if package in BRINGS_GPL:  # in its wheels, as a library of its own, of which some versions speak for the whole
        assert BRINGS_GPL[package] in licences.PAGE.read_text()
        licence = licence.replace("GPL-2.0-only", "BSD-3-Clause") if package == "pillow-heif" else licence
    allowed = FIT | ({"AGPL-3.0-or-later", "AGPL-3.0-only"} if name == "botvision-yolo" else set())
    assert parts(licence) <= allowed, f"{package} is under {licence}"


def test_what_is_no_longer_asked_for_is_not_listed():
    assert set(LISTED) == {package for own in NEEDED.values() for package in own}


def test_copyleft_is_seen():
    assert not parts("MIT AND GPL-3.0-only") <= FIT
    assert licences.licence_of("ultralytics").startswith("AGPL")
