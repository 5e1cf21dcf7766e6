"""What is shipped and what is asked for: files and licences of both distributions, and their requirements."""

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "plugins" / "botvision-yolo"
EVERYWHERE = ("train", "detect", "scenes")
EXTRAS = {  # which of its extras a part may import from, besides what is always installed
    ROOT / "src/botvision": {
        **dict.fromkeys(("attention", "backbone", "files", "inputs", "optim", "usage"), ()),
        **dict.fromkeys(("classify", "cli", "completion", "engine", "report"), ("train",)),
        **dict.fromkeys(("draw", "explore", "maskrcnn"), ("train", "detect")),
        "video": ("detect",),
        **dict.fromkeys(("digits", "scenes"), ("scenes",)),
        "deploy": ("deploy", "export"),
        "export": ("train", "detect", "export"),
        "serve": ("serve",),
        "bench": (*EVERYWHERE, "export"),
    },
    PLUGIN / "src/botvision_yolo": {
        **dict.fromkeys(("blocks", "cli", "convert", "likeness", "model", "reader", "registry"), ()),
        **dict.fromkeys(("seed", "table", "trainer", "transfer", "variants"), ()),
        **dict.fromkeys(("compare", "scenes"), ("compare",)),
        **dict.fromkeys(("explore", "report"), ("explore",)),
    },
}
BROUGHT = {"triton": "torch brings it where it has kernels, and `tiled` refuses where it is not"}
THROUGH = {
    "serve": {
        "pycocotools": "maskrcnn.masks, which serve imports, writes RLE with it",
        "jsonargparse": "cli, by which it is started, reads flags with it",
        "pyyaml": "engine.settings, which cli imports, reads YAML with it",
    }
}
UNIMPORTED = {
    "botvision": {
        "tensorboard": "torch writes its files with it",
        "pillow-heif": "Pillow reads HEIC with it, where it is installed",
        "pyarrow": "Parquet is written with it, where it is installed",
        "trackers": "ByteTrack is its, where it is installed",
    },
    "botvision_yolo": {
        "cloudpickle": "ultralytics sends its workers their state with it",
        "lap": "ultralytics tracks with it",
        "onnx": "torch writes graphs with it",
        "onnxruntime": "ultralytics runs graphs with it",
        "onnxscript": "torch writes graphs with it",
        "onnxslim": "ultralytics slims graphs with it",
        "openvino": "ultralytics exports with it",
        "nncf": "ultralytics exports to int8 with it",
    },
}
OWN = {"botvision": {"botvision"}, "botvision_yolo": {"botvision-yolo"}}
BESIDE = {"benchmarks", "studies", "tests"}  # packages of this repository that no distribution has
FORBIDDEN = {"ultralytics", "botvision_yolo"}
PACKAGES = list(EXTRAS)


def build(project, folder):
    """A folder with the sdist and the wheel, built from this checkout by the backend that pip uses."""
    run = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder


def contents(folder):
    """The sdist's and the wheel's files by name, as bytes."""
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        files = {m.name.split("/", 1)[1]: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        return files, {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def core_dist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def plugin_dist(tmp_path_factory):
    return build(PLUGIN, tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def core(core_dist):
    return contents(core_dist)


@pytest.fixture(scope="module")
def plugin(plugin_dist):
    return contents(plugin_dist)


@pytest.fixture(scope="module")
def clean(core_dist, plugin_dist, tmp_path_factory):
    """A function that runs a program of an environment outside the checkout, and gives what it prints.

    It has both wheels and sees the packages that are installed here, but not this checkout: that is on their path by a
    .pth file, and only those of the environment's own folder are read.
    """
    home = tmp_path_factory.mktemp("clean")
    venv.create(home / "env", symlinks=True)
    scripts = home / "env" / "bin"
    wheels = [str(wheel) for folder in (core_dist, plugin_dist) for wheel in folder.glob("*.whl")]
    installed = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    [own] = (home / "env").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, *quiet, *wheels], check=True, cwd=home)
    (own / "installed.pth").write_text("\n".join(installed) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program, *arguments):
        command = [str(scripts / program), *arguments]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def on_disk(package, *, within):
    """Files of a package in this checkout, by their names in an archive whose root is `within`."""
    files = (p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(within)) for p in files}


def modules(text):
    """Names of the top-level modules that a Python file imports, at any depth of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def imported_by(files):
    return {module for name, text in files.items() if name.endswith(".py") for module in modules(text)}


def licences(files):
    return {name for name in files if re.search("licen[sc]e|copying", Path(name).name, re.IGNORECASE)}


def version_of(project):
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]


def test_the_core_is_shipped_whole_and_nothing_else(core):
    sdist, wheel = core
    source = on_disk(ROOT / "src/botvision", within=ROOT)
    assert len(source) > 60
    frame = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert set(sdist) == source | frame
    assert not [name for name in (*sdist, *wheel) if "studies" in name]
    code = {name for name in wheel if ".dist-info/" not in name}
    assert code == {name.removeprefix("src/") for name in source}


def test_the_core_bears_one_licence_and_no_line_under_another(core):
    for files in core:
        [licence] = licences(files)
        assert files[licence] == (ROOT / "LICENSE").read_bytes()
        assert not FORBIDDEN & imported_by(files)
        assert not [name for name, text in files.items() if b"GNU AFFERO" in text or b"AGPL-3.0-only" in text]
        [metadata] = [text for name, text in files.items() if name.endswith(("PKG-INFO", "/METADATA"))]
        assert b"\nLicense-Expression: Apache-2.0\n" in metadata
    assert b"Apache License" in core[0]["LICENSE"]


def test_the_plug_in_bears_its_own_licence_and_nothing_of_the_core(plugin):
    sdist, wheel = plugin
    source = on_disk(PLUGIN / "src/botvision_yolo", within=PLUGIN)
    assert len(source) > 12
    assert set(sdist) - {".gitignore"} == source | {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
    assert {name for name in wheel if ".dist-info/" not in name} == {name.removeprefix("src/") for name in source}
    for files in plugin:
        [licence] = licences(files)
        assert b"GNU AFFERO GENERAL PUBLIC LICENSE" in files[licence]
        [metadata] = [text for name, text in files.items() if name.endswith(("PKG-INFO", "/METADATA"))]
        assert b"\nLicense-Expression: AGPL-3.0-only\n" in metadata


def test_the_installed_wheel_has_its_commands(clean):
    version = version_of(ROOT)
    assert clean("botvision", "--version") == f"botvision {version}\n"
    assert clean("python", "-m", "botvision", "--version") == f"botvision {version}\n"
    assert {"maskrcnn", "classify", "bench", "scenes"} <= set(clean("botvision", "--help").split())


def test_the_installed_wheel_has_its_public_names_and_recipes(clean):
    code = """
import importlib, json
from botvision.cli import COMMANDS, recipe_names, recipe_path
names = ("botvision", *(f"botvision.{part}" for part in ("attention", "backbone", "classify", "maskrcnn", "scenes")))
packages = [importlib.import_module(name) for name in names]
assert all(getattr(package, name) is not None for package in packages for name in package.__all__)
recipes = {task: recipe_names(COMMANDS[task]["train"].recipes) for task in ("classify", "maskrcnn")}
assert all(recipe_path(n, COMMANDS[t]["train"].recipes).read_text() for t, found in recipes.items() for n in found)
print(json.dumps([packages[0].__file__, recipes]))
"""
    where, recipes = json.loads(clean("python", "-W", "ignore", "-c", code).splitlines()[-1])
    assert not Path(where).is_relative_to(ROOT)
    for task, found in recipes.items():
        assert found == sorted(path.stem for path in (ROOT / "src/botvision" / task / "recipes").glob("*.yaml"))


def test_the_installed_plug_in_is_found_with_its_command(clean):
    """By its metadata: to import it is to import ultralytics, which its own tests do."""
    code = """
from importlib.metadata import entry_points, version
from importlib.util import find_spec
[command] = entry_points(group="console_scripts", name="bot-yolo")
print(version("botvision-yolo"), command.value, find_spec("botvision_yolo").origin, sep="\\n")
"""
    version, command, origin = clean("python", "-c", code).splitlines()
    assert version == version_of(PLUGIN)
    assert command == "botvision_yolo.cli:main"
    assert not Path(origin).is_relative_to(ROOT)


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(project):
    """The distributions that a pyproject.toml asks for: {"": always, extra: …, "dev": for tests} → {name: floor}."""
    whole = tomllib.loads((project / "pyproject.toml").read_text())
    own = whole["project"]
    lists = {"": own["dependencies"], **own["optional-dependencies"], **whole.get("dependency-groups", {})}
    found = {}
    for extra, lines in lists.items():
        parts = (re.match(r"([\w.-]+)(\[[\w,]+\])?(?:>=([\w.]+))?", line) for line in lines)
        found[extra] = {normal(name): floor for name, inner, floor in (p.groups() for p in parts)}
    return found


def distributions():
    """Import name → the installed distributions that bring it."""
    return {module: set(map(normal, names)) for module, names in packages_distributions().items()} | OWN


def project_of(package):
    return package.parent.parent


def foreign_imports(package):
    """(part, module) of each import in a package from outside it and the standard library."""
    for path in package.rglob("*.py"):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        for module in modules(path.read_text()):
            if module not in sys.stdlib_module_names and module != package.name:
                yield part, module


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_what_is_imported_is_declared_where_it_is_needed(package):
    declared, bringers, brought = requirements(project_of(package)), distributions(), set()
    for part, module in foreign_imports(package):
        if module in BROUGHT:
            brought.add(module)
            continue
        allowed = set(declared[""]).union(*(declared[extra] for extra in EXTRAS[package][part]))
        assert allowed & bringers.get(module, set()), (
            f"{package.name}/{part} imports {module}, which {bringers.get(module)} bring; declare it in pyproject.toml "
            f"where {part} may import from: dependencies, {', '.join(EXTRAS[package][part])}"
        )
    assert package.name != "botvision" or brought == set(BROUGHT)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_what_is_declared_is_imported_where_it_is_declared(package):
    declared, bringers = requirements(project_of(package)), distributions()
    used = {extra: set() for extra in ("", *declared)}
    for part, module in foreign_imports(package):
        for extra in ("", *EXTRAS[package][part]):
            used[extra] |= bringers.get(module, set())
    for extra, names in declared.items():
        if extra in {"dev", "docs", "studies"}:
            continue
        waiting = {name for name in names if name in used[extra] and name in UNIMPORTED[package.name]}
        assert not waiting, f"{waiting} is imported now; take it off UNIMPORTED in {Path(__file__).name}"
        unseen = {*UNIMPORTED[package.name], *THROUGH.get(extra, ())}
        idle = set(names) - used[extra] - unseen - set.union(*OWN.values())
        assert not idle, f"{extra or 'dependencies'} of {package.name} declares {idle}, which nothing imports; drop it"


def test_what_tests_and_studies_import_is_declared():
    declared, bringers = set(), distributions()
    for project in (ROOT, PLUGIN):
        declared |= set().union(*requirements(project).values())
    here = {p.stem for p in ROOT.glob("tests/**/*.py")} | {"tests"} | set(OWN) | BESIDE | set(BROUGHT)
    for folder in (ROOT / "tests", ROOT / "studies", PLUGIN / "tests", ROOT / "examples"):
        for path in folder.rglob("*.py"):
            for module in set(modules(path.read_text())) - here - sys.stdlib_module_names:
                assert declared & bringers.get(module, set()), f"{path} imports {module}, which nothing declares"


def test_a_distribution_has_one_floor_wherever_it_is_declared():
    floors = {}
    for project in (ROOT, PLUGIN):
        for names in requirements(project).values():
            for name, floor in names.items():
                floors.setdefault(name, set()).add(floor)
    assert {name: found for name, found in floors.items() if len(found) > 1 and name not in {"botvision"}} == {}


def test_one_opencv_at_most():
    """Each of OpenCV's distributions writes the same folder, and the last one installed wins."""
    asked = set().union(*(names for project in (ROOT, PLUGIN) for names in requirements(project).values()))
    assert {name for name in asked if name.startswith("opencv")} <= {"opencv-python"}  # ultralytics asks for this one


def test_images_are_drawn_without_opencv_unless_supervision_requires_it():
    needs = [line for line in requires("supervision") or [] if line.startswith("opencv") and "extra ==" not in line]
    code = """
import sys
if not int(sys.argv[1]):
    sys.modules["cv2"] = None  # importing it fails
import numpy as np, supervision as sv
from botvision.draw.instances import draw_instances
mask = np.zeros((1, 64, 64), dtype=bool); mask[:, 8:40, 8:40] = True
found = sv.Detections(xyxy=np.array([[8.0, 8, 40, 40]]), mask=mask, class_id=np.array([0]), confidence=np.array([0.9]))
image = np.full((64, 64, 3), 128, dtype=np.uint8)
drawn = draw_instances(image, found, ["seven"])
changed = (drawn != 128).any(-1)
assert drawn.shape == (640, 640, 3) and changed[200, 200] and not changed[600, 600], changed.sum()
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(int(bool(needs)))], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
