"""A small part of `make faults`: broken files are read as they are, or told in a line; and the harness sees faults."""

import ast
import os
import signal
import time
from pathlib import Path

import pytest

import botvision
from tests.faults import harness, images, jsons, loads, shards
from tests.faults.harness import LOST, REFUSED, SURVIVED, Family, Wrong

pytestmark = pytest.mark.filterwarnings("ignore")  # of decoders, about broken files
SOURCE = Path(botvision.__file__).parent
# every place that opens what a stranger may have written, and the family that tries it
OPENED = {
    "torch.load": {"engine/checkpoint.py", "backbone/weights.py"},  # loads.checkpoints
    "load_file": {"backbone/weights.py"},  # loads.safetensors
    "timm.create_model": {"backbone/weights.py", "backbone/registry.py"},  # loads.of_a_hub, loads.pretrained
    "yaml.safe_load": {"engine/settings.py"},  # loads.yaml
    "yaml.parse": {"engine/settings.py"},
    # jsons, shards, tests/export; our own lines and our own table
    "json.loads": {"files.py", "classify/shards.py", "deploy/graph.py", "engine/journal.py", "attention/measured.py"},
    "Image.open": {"inputs.py"},  # images
    "tarfile.open": {"classify/shards.py", "digits.py"},  # shards; written
    "zipfile.ZipFile": {"backbone/archive.py", "engine/checkpoint.py"},  # loads.bomb
    "av.open": {"video.py"},  # tests/test_video.py
    "pickle.loads": {"maskrcnn/data.py"},  # of what the same process has pickled
}
CALLS = {name.rpartition(".")[2] for name in OPENED} - {"open", "load", "parse", "loads", "create_model"}
FOREIGN = ("np.load", "numpy.load", "torch.hub", "yaml.load", "yaml.unsafe_load", "pickle.load", "eval", "exec",
           "os.system", "subprocess.run", "subprocess.Popen", "urllib.request.urlopen", "urlopen", "requests.get",
           "marshal.loads", "joblib.load", "shelve.open", "ET.parse", "cv2.imread")  # fmt: skip


def calls_in(path):
    """Dotted names of what a module calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_every_place_that_opens_a_strangers_file_is_known():
    found = {}
    for path in SOURCE.rglob("*.py"):
        for call in calls_in(path):
            assert call not in FOREIGN, f"{path} calls {call}; bound it, and try it in tests/faults"
            if call in OPENED or call in CALLS:
                found.setdefault(call, set()).add(path.relative_to(SOURCE).as_posix())
    assert found == {name: places for name, places in OPENED.items() if name in found}
    assert {"torch.load", "yaml.safe_load", "Image.open", "tarfile.open"} <= found.keys()


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (jsons.family, range(0, 600, 4)),
        (images.family, range(200)),
        (shards.family, range(60)),
        (loads.family, range(24)),
    ],
)
def test_broken_files_are_read_as_they_are_or_told(build, numbers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tally = harness.in_this_process(build(tmp_path / "x", len(numbers)), numbers)
    assert tally.lost == []
    assert tally.counts[REFUSED] > 0
    assert tally.counts[SURVIVED] > 0 or build is loads.family


def crash():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("case", "verdict", "reason"),
    [
        (lambda _: None, SURVIVED, ""),
        (lambda _: (_ for _ in ()).throw(ValueError("a.json: bad; mend it")), REFUSED, ""),
        (lambda _: (_ for _ in ()).throw(ValueError("bad; mend it")), LOST, "names no file"),
        (lambda _: (_ for _ in ()).throw(ValueError("a.json: bad")), LOST, "has no cure"),
        (lambda _: (_ for _ in ()).throw(ValueError("a.json:\nbad; mend")), LOST, "not one line"),
        (lambda _: (_ for _ in ()).throw(KeyError("x")), LOST, "KeyError"),
        (lambda _: (_ for _ in ()).throw(Wrong("other labels")), LOST, "other labels"),
        (lambda _: __import__("os").system("true"), LOST, "did what it must not: os.system"),
        (lambda _: crash(), LOST, "crashed"),
        (lambda _: time.sleep(9), LOST, "hung"),
        (lambda _: sum(range(10**10)), LOST, "hung"),
    ],
)
def test_the_harness_sees_what_is_lost(case, verdict, reason, monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.3)
    monkeypatch.setattr(harness, "SILENT", 2.0 if reason == "hung" else 60.0)
    tally = harness.apart(Family("x", 1, case, named=("a.json",)), range(1))
    assert tally.counts == {verdict: 1}
    assert reason in "".join(tally.lost)
