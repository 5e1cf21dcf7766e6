"""The hour on a GPU: every stage runs at toy size on the CPU, may be broken off, and goes on with what is on file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import (
    attention,
    detector,
    evidence,
    exactness,
    family,
    heats,
    look,
    prediction,
    report,
    stage,
    table,
    tiles,
)
from benchmarks.gpu.heats import Heat, run_heats
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import InexactError
from botvision.attention import tiled
from botvision.bench.race import DeviceLostError, Engine, Setting
from studies.hardware import commit

ROOT = Path(__file__).parents[1]
HOUR = ROOT / "benchmarks" / "gpu" / "hour.sh"
CPU = Engine(accelerator="cpu")
FAKE = """#!/bin/sh
name=${2#benchmarks.gpu.}
echo "$name" >>"$3/ran"
eval "$(printenv "DO_$name")"
"""


def rows(path):
    return json.loads(path.read_text())["rows"]


@pytest.fixture
def hour(tmp_path):
    """Runs hour.sh with a shell script for Python, which does what DO_<stage> says."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def start(*arguments, out="out", **environment):
        told = {**os.environ, "PYTHON": str(fake), **environment}
        command = ["bash", str(HOUR), *arguments, str(tmp_path / out)]
        return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def ended(process, code):
    out, error = process.communicate(timeout=240)
    assert process.returncode == code, out + error
    table = out.partition("\n\n")[2]
    return {line.split()[0]: line for line in table.splitlines() if line[:1].isdigit()}, out, error


# ── the script ──


def test_all_stages_run_in_their_order_and_one_that_fails_does_not_end_the_others(hour, tmp_path):
    lines, _, error = ended(hour(DO_attention="echo no kernel; exit 1", DO_family="echo skipped: no timm; exit 77"), 1)
    ran = (tmp_path / "out" / "ran").read_text().split()
    assert ran == ["look", "exactness", "attention", "detector", "family", "prediction", "evidence"]
    assert "failed (1)" in lines["2"]
    assert "no kernel" in lines["2"]
    assert "no kernel" in error
    assert "skipped" in lines["4"]
    assert all("done" in lines[number] for number in "01356")
    assert "no kernel" in (tmp_path / "out" / "hour.log").read_text()


def test_only_and_skip(hour, tmp_path):
    lines, *_ = ended(hour("--toy", ONLY="2 3", SKIP="3"), 0)
    assert (tmp_path / "out" / "ran").read_text().split() == ["look", "attention"]
    assert "left out" in lines["3"]
    ended(hour(SKIP="0 1 2 3 4 5", out="other"), 0)
    assert (tmp_path / "other" / "ran").read_text().split() == ["evidence"]


def test_a_signal_ends_the_running_stage_and_begins_no_other(hour, tmp_path):
    write = 'echo "[1]" >"$3/1_exactness.json"'
    process = hour(DO_exactness=write, DO_attention='echo "[" >"$3/.unfinished-2"; exec sleep 30')
    ran = tmp_path / "out" / "ran"
    try:
        until(lambda: ran.is_file() and "attention" in ran.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
    lines, *_ = ended(process, 143)
    assert "cut off" in lines["2"]
    assert all("not begun" in lines[number] for number in "3456")
    assert "left out" in lines["7"]
    assert json.loads((tmp_path / "out" / "1_exactness.json").read_text()) == [1]
    assert not list((tmp_path / "out").glob(".unfinished-*"))


def until(is_so, *, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_limit_and_no_gpu_end_it(hour):
    lines, *_ = ended(hour(LIMIT="5"), 0)
    assert all("not begun" in lines[number] for number in "0123456")
    lines, *_ = ended(hour(DO_look="echo torch sees no NVIDIA GPU; exit 3"), 3)
    assert "not begun" in lines["1"]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--tiny"], {}, "unknown option --tiny"),
        ([], {"ONLY": "8"}, "ONLY and SKIP take stages 0 to 7; got 8"),
        ([], {"LIMIT": "an hour"}, "LIMIT takes seconds; got an hour"),
        ([], {"LIMIT": "0"}, "LIMIT takes seconds; got 0"),
        ([], {"LIMIT": "08"}, "LIMIT takes seconds; got 08"),
        (["one"], {}, "one folder is needed"),
        ([], {"out": "python"}, "cannot write into"),
    ],
)
def test_mistakes_are_told(hour, arguments, environment, said):
    assert said in ended(hour(*arguments, **environment), 2)[2]


def test_a_missing_interpreter_fails_every_stage(hour):
    lines, *_ = ended(hour(PYTHON="no-such-python"), 1)
    assert all("failed (127)" in lines[number] for number in "0123456")


def test_a_stage_that_is_killed_leaves_a_whole_file(tmp_path):
    code = (
        "import sys, itertools; from pathlib import Path\n"
        "from benchmarks.gpu.results import Results; from benchmarks.gpu.stage import main\n"
        "def endless(out, toy):\n"
        "    results = Results(out / 'r.json', 'R', toy=toy)\n"
        "    for number in itertools.count(): results.add({'number': number, 'much': 'x' * 10000})\n"
        "sys.exit(main(endless))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-c", code, str(tmp_path), "--toy"]
    with subprocess.Popen(command, env=environment) as process:
        try:
            until(lambda: (tmp_path / "r.json").is_file() and len(rows(tmp_path / "r.json")) > 3)
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert [row["number"] for row in rows(tmp_path / "r.json")][:4] == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.slow
def test_the_whole_hour_at_toy_size(tmp_path):
    told = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["bash", str(HOUR), "--toy", str(tmp_path)], env=told, check=True)
    subprocess.run(["bash", str(HOUR), "--toy", str(tmp_path)], env=told | {"ONLY": "7"}, check=True)
    assert {row["why_not"] for row in rows(tmp_path / "7_tiles.json")} == {""}
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        "0_look", "1_exactness", "2_attention", "3_detector", "4_family", "5_prediction", "6_evidence", "7_tiles",
    }  # fmt: skip
    assert [row["variant"] for row in rows(tmp_path / "6_evidence.json")] == ["resnet"]
    assert "## 5_prediction" in report.page(tmp_path)


# ── the stages ──


def test_what_is_missing_is_told_with_what_follows(tmp_path, capsys, monkeypatch):
    there = look.version
    monkeypatch.setattr(look, "version", lambda name: {"timm": None, "torch": "2.10.1"}.get(name, there(name)))
    assert look.look(tmp_path, toy=True) == 0
    said = capsys.readouterr().out
    assert "timm is missing: stages 3, 4, 5 and 6 are skipped" in said
    assert "torch 2.10.1 is older than 2.11" in said
    assert json.loads((tmp_path / "0_look.json").read_text())["device"]["bfloat16_product_tflops"] > 0
    assert look.look(tmp_path, toy=False) == look.NO_GPU


def test_exactness_of_every_backend(tmp_path, capsys):
    assert stage.main(exactness.exactness, [str(tmp_path), "--toy"]) == 0
    assert "18 of 24 cases exact, 6 refused; 0 differ" in capsys.readouterr().out
    found = rows(tmp_path / "1_exactness.json")
    assert len(found) == 4 * 3 * 2
    assert all("Triton kernel for GPUs" in row["why_not"] for row in found if row["backend"] == "tiled")


def test_a_wrong_backend_is_found(tmp_path, capsys, monkeypatch):
    right = exactness.attend
    monkeypatch.setattr(exactness, "attend", lambda *t, backend, **k: right(*t, backend=backend, **k) * (
        1.1 if backend == "onehot" else 1))  # fmt: skip
    assert stage.main(exactness.exactness, [str(tmp_path), "--toy"]) == 1
    assert "6 wrong, the first: onehot bfloat16" in capsys.readouterr().out
    assert table.exact_backends(rows(tmp_path / "1_exactness.json"))["float32"] == {"explicit", "auto"}


@pytest.mark.parametrize(
    ("run", "file", "heats"),
    [
        (attention.attention, "2_attention", 4),
        (detector.detector, "3_detector", 2),
        (family.family, "4_family", 3),
        (prediction.prediction, "5_prediction", 3),
    ],
)
def test_a_stage_of_races(run, file, heats, tmp_path, capsys, monkeypatch):
    assert stage.main(run, [str(tmp_path), "--toy"]) == 0, capsys.readouterr().out
    first = (tmp_path / f"{file}.json").read_text()
    found = json.loads(first)
    assert found["toy"] is True
    assert found["architecture"] == "cpu"
    assert len({tuple(row[field] for field in ("what", "size", "batch", "train", "precision", "compile")) for row in
                found["rows"]}) == heats  # fmt: skip
    assert {row["why_not"] for row in found["rows"]} <= {"", "torch_tensorrt is not installed"}
    assert all(row["ratio"] > 0 for row in found["rows"] if row["seconds"])
    monkeypatch.setattr("benchmarks.gpu.heats.race", lambda *_, **__: pytest.fail("it was on file"))
    assert stage.main(run, [str(tmp_path), "--toy"]) == 0
    assert (tmp_path / f"{file}.json").read_text() == first


def test_tiles_are_chosen_for_a_step_and_no_longer(monkeypatch):
    told = []
    monkeypatch.setattr(tiles, "core", lambda *_: lambda: told.append(tiled.arguments(*tensors, 1.0)))
    tensors = [torch.empty(1, 1, 9, side, dtype=torch.bfloat16) for side in (8, 8, 3, 3)]
    usual = tiled.arguments(*tensors, 1.0)
    for name in (tiles.AS_IT_IS, "block 128, 4 warps, 3 stages"):
        tiles.build(name, setting())()
    assert told == [usual, usual | {"BLOCK": 128, "num_warps": 4, "num_stages": 3}]
    assert tiled.arguments(*tensors, 1.0) == usual


def test_a_stage_without_what_it_needs_is_skipped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stage, "is_there", lambda name: name not in ("timm", "sklearn"))
    assert stage.main(family.family, [str(tmp_path), "--toy"]) == stage.SKIPPED
    assert capsys.readouterr().out == "skipped: it needs timm, which is not installed\n"
    assert stage.main(evidence.evidence, [str(tmp_path), "--toy"]) == stage.SKIPPED
    assert "timm, sklearn, which are not installed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert stage.main(family.family, [str(tmp_path)]) == stage.NO_GPU


def test_without_timm_attention_still_races(monkeypatch):
    monkeypatch.setattr(attention, "is_there", lambda _: False)
    assert all("timm" not in name for heat in attention.heats(toy=True) for name in heat.names)


def test_what_a_gpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(Engine, "device", property(lambda self: torch.device(self.accelerator)))
    full = [heat for module in (attention, detector, family, prediction, tiles) for heat in module.heats(toy=False)]
    assert len({json.dumps(heat.key) for heat in full}) == len(full)  # each is on file by a key of its own
    first = full[0]
    assert (first.what, first.setting[:3], first.setting.engine.precision) == ("core", (64, 8, True), "bfloat16")
    assert {"attend tiled", "attend onehot"} < set(first.names)
    *_, last = attention.heats(toy=False)  # what is compiled for each size spoils nothing
    assert {"torch FlexAttention", "attend onehot, cuDNN first"} < set(last.names)
    monkeypatch.setattr(stage, "is_there", lambda _: False)
    without = [heat for module in (attention, detector, family, prediction, tiles) for heat in module.heats(toy=False)]
    assert not any(heat.setting.engine.compile or "torch FlexAttention" in heat.names for heat in without)


BARE = """
import importlib.metadata, sys
for name in ("pycocotools", "jsonargparse", "hotcoco", "supervision", "webdataset", "pyarrow", "ultralytics"):
    sys.modules[name] = None
known = importlib.metadata.version
def version(name):
    if name == "botvision":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.version = version
from benchmarks.gpu.look import broken
print(broken())
"""


def test_a_machine_with_torch_and_timm_alone_can_import_every_stage():
    """From a copy that is not installed, without the packages that only training and labels need."""
    said = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"})  # fmt: skip
    assert said.stdout == "{}\n"


def test_a_commit_is_told_to_a_copy_without_its_history(monkeypatch):
    monkeypatch.setenv("BOTVISION_COMMIT", "abc1234")
    assert commit() == "abc1234"
    monkeypatch.delenv("BOTVISION_COMMIT")
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == ""


# ── a file that grows ──


def setting(batch=2):
    return Setting(3, batch, False, CPU)


def test_a_file_of_another_run_is_refused(tmp_path, capsys):
    path = tmp_path / "r.json"
    Results(path, "R", toy=True).add({"a": 1})
    assert Results(path, "R", toy=True).has(a=1)
    with pytest.raises(ValueError, match="has title 'R', and this run 'S'; give another folder"):
        Results(path, "S", toy=True)
    path.write_text("[]")
    with pytest.raises(ValueError, match="has title None"):
        Results(path, "R", toy=True)
    (tmp_path / "1_exactness.json").write_text("{")
    assert stage.main(exactness.exactness, [str(tmp_path), "--toy"]) == stage.MISTAKE
    assert "is the file whole?" in capsys.readouterr().out


def test_a_heat_that_fails_does_not_end_the_others(tmp_path, capsys):
    def build(name, _):
        if name == "bad":
            raise RuntimeError("no such kernel\nand more")
        return lambda: None

    results = Results(tmp_path / "r.json", "R", toy=True)
    told = [Heat("one", build, ["bad"], setting()), Heat("two", build, ["good", "bad"], setting())]
    with pytest.raises(InexactError, match="1 failed, the first: one, 2 × 3²: no such kernel"):
        run_heats(results, told, rounds=1)
    assert [(row["what"], row["name"], row["why_not"]) for row in rows(tmp_path / "r.json")] == [
        ("two", "good", ""),
        ("two", "bad", "RuntimeError: no such kernel"),
    ]


def test_a_smaller_batch_where_memory_holds_no_more(tmp_path):
    def build(name, told):
        if told.batch > {"baseline": 4, "other": 2}[name]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 60 GiB")
        return lambda: None

    results = Results(tmp_path / "r.json", "R", toy=True)
    told = Heat("x", build, ["baseline", "other"], setting(batch=8), smaller=(4, 2, 1))
    run_heats(results, [told], rounds=1)
    assert [(row["batch"], row["asked_batch"], row["why_not"]) for row in results.rows] == [(2, 8, "")] * 2
    with pytest.raises(InexactError, match="out of memory"):
        run_heats(Results(tmp_path / "s.json", "R", toy=True), [told._replace(smaller=())], rounds=1)


def test_after_a_lost_device_the_stage_begins_anew_without_the_contender(tmp_path, monkeypatch):
    class RestartedError(BaseException):
        pass

    def build(name, _):
        if name == "bad":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return lambda: None

    def restart():
        raise RestartedError

    monkeypatch.setattr(Engine, "is_usable", lambda _: False)
    monkeypatch.setattr(heats, "restart", restart)
    told = [Heat("x", build, ["good", "bad", "last"], setting())]
    with pytest.raises(RestartedError):
        run_heats(Results(tmp_path / "r.json", "R", toy=True), told, rounds=1)
    run_heats(Results(tmp_path / "r.json", "R", toy=True), told, rounds=1)
    assert [(row["name"], "illegal" in row["why_not"]) for row in rows(tmp_path / "r.json")] == [
        ("good", False), ("last", False), ("bad", True),
    ]  # fmt: skip
    with pytest.raises(DeviceLostError, match="no more work after 'bad': RuntimeError: CUDA error"):
        run_heats(Results(tmp_path / "s.json", "R", toy=True), [told[0]._replace(names=["bad"])], rounds=1)


def test_a_process_begins_anew_with_the_same_arguments(monkeypatch):
    begun = []
    monkeypatch.setattr(os, "execv", lambda *command: begun.append(command))
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-u", "-m", "benchmarks.gpu.attention", "out"])
    stage.restart()
    assert begun == [(sys.executable, [sys.executable, "-u", "-m", "benchmarks.gpu.attention", "out"])]


# ── what is made of the results ──


def timed(name, milliseconds, *, what="core", size=64, batch=8, train=True, precision="bfloat16", peak=None, **more):
    seconds = [milliseconds / 1e3] * 3
    key = {"what": what, "size": size, "asked_batch": batch, "train": train, "precision": precision, "compile": False}
    row = {"heat": f"{what}, {size}", "name": name, "seconds": seconds, "ratio": 1.0, "peak_mb": peak, "why_not": ""}
    return {**key, "batch": batch, **row, **more}


@pytest.fixture
def made_up(tmp_path):
    """A folder of results that nobody measured, of a GPU that is not there."""

    def write(**files):
        about = {"toy": False, "machine": "made up", "commit": "abc", "architecture": "9.9", "note": ""}
        about["date"] = "2026-01-01"
        for name, own in files.items():
            path = tmp_path / "results" / f"{name.removeprefix('_')}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({**about, "title": name, "left_out": {}, "rows": own}))
        return tmp_path / "results"

    return write


def exact(backend, dtype="bfloat16", *, is_exact=True):
    forward = 1e-3 if is_exact else 1.0
    return {"backend": backend, "dtype": dtype, "shape": [1, 1, 2, 2, 8], "forward": forward, "gradients": [0.0] * 5,
            "exact": is_exact, "repeatable": True}  # fmt: skip


def test_a_table_of_made_up_timings(made_up, tmp_path, capsys):
    cores = [
        timed("torch SDPA, no positions", 1), timed("attend auto", 1),
        timed("attend explicit", 9, size=14), timed("attend onehot", 5, size=14), timed("attend tiled", 3, size=14),
        timed("attend explicit", 8, size=32), timed("attend onehot", 6, size=32), timed("attend tiled", 3, size=32),
        timed("attend explicit", 9), timed("attend onehot", 4, peak=100), timed("attend tiled", 4.1, peak=50),
        timed("attend explicit", 1, batch=1), timed("attend onehot", 2, batch=1), timed("attend tiled", 3, batch=1),
        timed("attend tiled", 3, train=False, seconds=[], why_not="no triton"), timed("attend onehot", 4, train=False),
        timed("attend explicit", 1, precision="float32"), timed("attend onehot", 2, precision="float32"),
    ]  # fmt: skip
    checked = [*map(exact, ("explicit", "onehot", "tiled")), exact("onehot", "float32")]
    checked.append(exact("explicit", "float32", is_exact=False))
    folder = made_up(_1_exactness=checked, _2_attention=cores)
    out = tmp_path / "measured.json"
    out.write_text('{"8.0": {}}')
    assert table.main([str(folder), "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert list(written) == ["8.0", "9.9"]
    assert written["9.9"] == {
        "bfloat16": {
            "training": [{"up_to": None, "backends": ["tiled", "onehot", "explicit"]}],
            "forward": [{"up_to": None, "backends": ["onehot"]}],
        },
        "float32": {"training": [{"up_to": None, "backends": ["onehot"]}]},
    }
    said = capsys.readouterr().out
    assert "| bfloat16 | training | more | tiled, onehot, explicit |" in said
    assert "not in the table: explicit in float32: stage 1 did not find it exact" in said
    assert "not in the table: tiled in bfloat16 at 64²: no triton" in said


def test_sizes_part_half_way_between_those_that_were_measured():
    rows = [timed("attend explicit", 1, size=14), timed("attend onehot", 2, size=14)]
    rows += [timed("attend explicit", 2, size=32), timed("attend onehot", 1, size=32)]
    part = table.made(rows, {"bfloat16": {"explicit", "onehot"}})
    assert part["bfloat16"]["training"] == [
        {"up_to": 448, "backends": ["explicit", "onehot"]},
        {"up_to": None, "backends": ["onehot", "explicit"]},
    ]


def test_a_toy_run_makes_no_table(made_up, tmp_path, capsys):
    folder = made_up(_1_exactness=[], _2_attention=[])
    before = table.TABLE.read_text()
    assert table.main([str(folder)]) == 2
    assert "no core that was timed and is exact" in capsys.readouterr().err
    told = json.loads((folder / "2_attention.json").read_text())
    (folder / "2_attention.json").write_text(json.dumps({**told, "toy": True}))
    assert table.main([str(folder)]) == 2
    assert "is of a toy run, which proves the script alone" in capsys.readouterr().err
    assert table.main([str(tmp_path / "none")]) == 2
    assert table.TABLE.read_text() == before


def test_goals_of_made_up_results(made_up, tmp_path, capsys):
    attention_rows = [
        timed("torch SDPA, no positions", 2), timed("attend tiled", 2.5), timed("attend onehot", 4),
        timed("layer without positions", 1, what="layer"), timed("MHSA2d auto", 2, what="layer", peak=10),
        timed("timm BottleneckAttn", 5, what="layer", peak=101),
    ]  # fmt: skip
    steps = [timed("resnet50", 10, what="Mask R-CNN", size=1024), timed("botnet50", 11.8, what="Mask R-CNN", size=1024)]
    pair = [timed("tf_efficientnet_b7@600", 7, what="c"), timed("botnet_s1_128@384", 3, what="c")]
    folder = made_up(_1_exactness=[exact("tiled")], _2_attention=attention_rows, _3_detector=steps, _4_family=pair)
    assert report.main([str(folder), "--out", str(tmp_path / "page.md")]) == 0
    said = (tmp_path / "page.md").read_text()
    assert "at 32², training, ours / torch's without positions ≤ 1.3 | not measured |" in said
    assert "≤ 1.3 | 1.25 (attend tiled / torch SDPA, no positions, batch 8), met |" in said
    assert "timm's / ours ≥ 3 | 2.50 (timm BottleneckAttn / MHSA2d auto, batch 8), **missed** |" in said
    assert "timm's memory / ours ≥ 10 | 10.1 (MHSA2d auto: 10 MB), met |" in said
    assert "≤ 1.15 (paper, TPU: 1.313) | 1.18 (botnet50 / resnet50, batch 8), **missed** |" in said
    assert "≥ 2.33 (paper, TPU: 1.64) | 2.33 (tf_efficientnet_b7@600 / botnet_s1_128@384, batch 8), met |" in said
    assert "Not run: 5_prediction, 6_evidence." in said
    assert report.main([str(tmp_path / "none")]) == 2
    assert "holds no results of a stage" in capsys.readouterr().err
