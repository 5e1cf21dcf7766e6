"""Kill runs with SIGKILL at seeded moments, resume them, and compare their ends with uninterrupted runs'.

python -m tests.faults.kills --kills 40 --report benchmarks/results/kills_<hardware>_<date>.md
"""

import argparse
import csv
import hashlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import torch

import botvision.classify.task
import botvision.digits
import botvision.export.exporting
import botvision.maskrcnn.streaming
import botvision.maskrcnn.task
import botvision.scenes.make
from botvision import classify, maskrcnn
from botvision.classify.config import AugmentConfig
from botvision.classify.model import build_model as build_classifier
from botvision.classify.model import describe as describe_classifier
from botvision.deploy.graph import open_graph
from botvision.digits import make_digits
from botvision.engine import history, module
from botvision.engine.config import DeviceConfig, EngineConfig
from botvision.export import export
from botvision.files import UNFINISHED, sha256, write_text
from botvision.maskrcnn.checkpoint import build_model as build_detector
from botvision.maskrcnn.checkpoint import describe as describe_detector
from botvision.maskrcnn.coco import Category
from botvision.scenes import make_scenes

PATIENCE = 300.0  # seconds after which a session counts as hung
AUGMENT = AugmentConfig("rand-m5-n1", mixup=0.2, cutmix=1.0, smoothing=0.1, erase=0.2)
Session = Callable[..., Any]


class Place(NamedTuple):
    """Where a session kills itself: a function of a module, before its n-th call, or in the middle of a file."""

    owner: Any
    name: str
    most: int
    half: bool = False


PLACES = {
    "step": Place(module.TaskModule, "on_train_batch_start", 8),
    "after a step": Place(history.History, "on_train_batch_end", 8),
    "saving, half written": Place(torch, "save", 4, half=True),
    "saving, written": Place(os, "fsync", 14),
    "saving, between two renamings": Place(Path, "replace", 14),
    "evaluating": Place(module.TaskModule, "on_validation_batch_start", 3),
    "evaluated": Place(history.History, "on_validation_end", 2),
    "drawing curves": Place(history, "draw_curves", 2),
}
MAKING = {
    "making a dataset": Place(botvision.scenes.make, "write_split", 2),
    "writing annotations": Place(botvision.scenes.make, "write_json", 2),
    "before its last file": Place(botvision.scenes.make, "write_text", 1),
}
SHARDS = {
    "making a dataset": Place(botvision.digits, "write_shards", 2),
    "writing an index": Place(botvision.digits, "write_json", 2),
    "before its last file": Place(botvision.digits, "write_text", 1),
}
EXPORTING = {
    "proving": Place(botvision.export.exporting, "proved", 1),
    "moving into place": Place(Path, "replace", 2),
}
DRAWING = {
    "drawing": Place(botvision.maskrcnn.streaming, "save_image", 16),
    "writing, between two renamings": Place(Path, "replace", 17),
    "writing results": Place(botvision.maskrcnn.streaming, "write_predictions", 1),
}
EXAMPLES = {
    "detector": Place(botvision.maskrcnn.task, "draw_examples", 1),
    "classifier": Place(botvision.classify.task, "draw_end", 1),
}


def same(one: Any, other: Any, place: str = "") -> list[str]:
    """Names of the tensors and numbers that differ."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{place}: other keys"]
        return [name for key in one for name in same(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{place}: other length"]
        return [name for n, pair in enumerate(zip(one, other, strict=True)) for name in same(*pair, f"{place}.{n}")]
    return [] if (torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other) else [place]


def ending(out: Path) -> dict[str, Any]:
    """What a run ends with: both checkpoints' tensors, and its rows but for the seconds that they took."""
    kept = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    last, best = (torch.load(out / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("last", "best"))
    with (out / "metrics.csv").open() as table:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(table)]
    return {"last": {key: last.get(key) for key in kept}, "best": best["state_dict"], "rows": rows}


def digest(folder: Path) -> str:
    """Of a folder's files and their names."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


class Scenario(NamedTuple):
    """A run to kill.

    Attributes:
        session: one session of it, into a folder.
        processes: how many it takes.
        root: where its folders are made; none is with the others.
        places: where it is killed, but for any time.
        outcome: what is compared of its folder.
        whole: of an interrupted session's folder what there is already, if there is: it must be of the outcome.
    """

    session: Session
    processes: int = 1
    root: Path | None = None
    places: Mapping[str, Place] | None = None
    outcome: Callable[[Path], Any] = ending
    whole: Callable[[Path], Any] | None = None


def detector(world: Path, *, workers: int, out: Path, devices: int = 1) -> None:
    """A session of a detector's run: two epochs of four steps, saved every third one."""
    data = maskrcnn.config.DataConfig(
        world / "annotations" / "train.json", world / "train", world / "annotations" / "val.json", world / "val",
        batch_size=4 // devices, workers=workers, on_bad="skip",
    )  # fmt: skip
    maskrcnn.train(
        data, out,
        model=maskrcnn.config.ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]}),
        optim=maskrcnn.config.OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup_steps=2, epochs=2, ema=0.9),
        engine=EngineConfig(accelerator="cpu", devices=devices, progress=False, log_every=1, save_every=3),
        on_existing="resume",
    )  # fmt: skip


def classifier(*, workers: int, out: Path) -> None:
    """A session of a classifier's run with every random option on: four epochs of four steps."""
    from sklearn import datasets
    from sklearn.utils import Bunch

    every = datasets.load_digits()
    few = Bunch(images=every.images[:448], target=every.target[:448])
    datasets.load_digits = lambda: few
    options = {"channels": [8, 16, 32, 64]}
    classify.train(
        classify.config.DataConfig("digits", "digits", batch_size=84, workers=workers, crop=1.0, augment=AUGMENT), out,
        model=classify.config.ModelConfig("botnet14", img_size=32, options=options, drop=0.2, drop_path=0.2),
        optim=classify.config.OptimConfig("adamw", epochs=4, warmup_epochs=0.5, ema=0.9, clip=1.0),
        engine=EngineConfig(accelerator="cpu", devices=1, progress=False, log_every=1, evaluate_every=2, save_every=3),
        on_existing="resume",
    )  # fmt: skip


def scenes(*, out: Path) -> None:
    """A session that makes a small dataset."""
    make_scenes(out, train=8, val=3, size=64, digits=(2, 4), scale=(0.25, 0.5))


def digits(*, out: Path) -> None:
    """A session that writes digits as shards."""
    make_digits(out, size=16, shards=2)


def exporting(checkpoint: Path, name: str, *, out: Path) -> None:
    """A session that exports a classifier, in the place of what is there."""
    export(str(checkpoint), out=out / name, on_existing="replace")


def drawing(checkpoint: Path, world: Path, *, out: Path) -> None:
    """A session that predicts and draws."""
    cpu = DeviceConfig("cpu")
    maskrcnn.predict(
        checkpoint, str(world / "train"), out=out, threshold=0.05, batch_size=1, engine=cpu, on_existing="resume"
    )


def found(out: Path) -> str:
    """Of the drawings and results, without the lines that these are made of."""
    return " ".join(f"{p.name} {sha256(p)}" for p in sorted(out.iterdir()) if p.suffix != ".jsonl")


def computed(name: str, out: Path) -> list[list[float]]:
    """What an exported file gives for some images."""
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    return open_graph(out / name).run({"images": images})["logits"].tolist()


def exported(name: str, out: Path) -> list[list[float]] | None:
    """The same, of a file that may not be there."""
    return computed(name, out) if (out / name).exists() else None


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """A detector's and a classifier's, with random weights."""
    torch.manual_seed(0)
    channels = {"channels": [8, 16, 32, 64]}
    finds = maskrcnn.config.ModelConfig("botnet14", "nano", 64, backbone_options=channels)
    names = classify.config.ModelConfig("botnet14", img_size=32, options=channels)
    detector, classifier = build_detector(finds, 2), build_classifier(names, 3)
    abouts = (
        describe_detector(finds, [Category(1, "a"), Category(2, "b")]),
        describe_classifier(names, ["a", "b", "c"], classifier, crop=1.0),
    )
    paths = folder / "detector.ckpt", folder / "classifier.ckpt"
    for path, model, about in zip(paths, (detector, classifier), abouts, strict=True):
        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"state_dict": state, "botvision": about}, path)
    return paths


def armed(place: Place, count: int) -> None:
    """Have this process kill itself before the count-th call of a function, or in the middle of the file it writes."""
    original, calls = getattr(place.owner, place.name), [0]

    def killing(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] < count:
            return original(*arguments, **options)
        if place.half:
            stream = arguments[1]
            with tempfile.TemporaryFile() as whole:
                original(arguments[0], whole)
                whole.seek(0)
                stream.write(whole.read()[: whole.tell() // 2])
            stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(place.owner, place.name, killing)


def launched(scenario: Scenario, out: Path, log: Path, arm: Callable[[], None] | None) -> list[int]:
    """Start the processes of a session, each of which leads a group of its own; `arm` kills the first of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(scenario.processes):
        pid = os.fork()
        if pid:
            started.append(pid)
            continue
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if scenario.processes > 1:
            os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0", "MASTER_PORT": str(port),
                           "WORLD_SIZE": str(scenario.processes), "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
        if arm is not None and rank == 0:  # which saves and draws
            arm()
        code = 1
        try:
            scenario.session(out=out)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return started


def ended(pids: list[int], *, after: float | None) -> list[int]:
    """Exit codes of a session's processes, −9 for a killed one; those of one that is killed after so many seconds.

    Once one is gone by a kill, the others of its session are given ten seconds to end with it.
    """
    codes: dict[int, int] = {}
    begun = time.monotonic()
    limit = begun + PATIENCE
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid]:
                    limit = min(limit, time.monotonic() + 10)
        now = time.monotonic()
        if after is not None and now - begun >= after:
            with_group(pids[-1])
            after = None
        if now > limit:
            for pid in set(pids) - set(codes):
                with_group(pid)
            limit = now + PATIENCE
        time.sleep(0.02)
    for pid in pids:
        with_group(pid)
    return [codes[pid] for pid in pids]


def with_group(pid: int) -> None:
    """Kill a process, and what it has left: its workers."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class Campaign:
    """Kills of all scenarios, and what became of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.world = folder / "world"
        make_scenes(self.world, train=16, val=6, size=64, digits=(2, 4), scale=(0.25, 0.5))
        shared = Path("/dev/shm")
        other = Path(tempfile.mkdtemp(dir=shared)) if shared.is_dir() and os.access(shared, os.W_OK) else None
        self.other = other
        one = partial(detector, self.world, workers=0)
        self.scenarios = {
            "classifier, 2 workers": Scenario(partial(classifier, workers=2)),
            "detector": Scenario(one),
            "classifier, on another file system": Scenario(partial(classifier, workers=0), root=other),
            "detector, 2 processes": Scenario(partial(one, devices=2), processes=2),
            "dataset making": Scenario(scenes, places=MAKING, outcome=digest),
            "detector, 2 workers, on another file system": Scenario(
                partial(detector, self.world, workers=2), root=other
            ),
        }
        found_by, named_by = checkpoints(folder)
        self.scenarios |= {
            "digits as shards": Scenario(digits, places=SHARDS, outcome=digest),
            **{
                f"export to {kind}": Scenario(
                    partial(exporting, named_by, name),
                    places=EXPORTING,
                    outcome=partial(computed, name),
                    whole=partial(exported, name),
                )
                for kind, name in (("ONNX", "model.onnx"), ("OpenVINO", "model.xml"))
            },
            "prediction, drawn": Scenario(partial(drawing, found_by, self.world), places=DRAWING, outcome=found),
        }
        self.killed: Counter[tuple[str, str]] = Counter()
        self.lost: list[str] = []
        self.runs = 0
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, Any] = {}

    def reference(self, name: str) -> Any:
        """An uninterrupted run's end, whose length is measured by the way."""
        kind = name.replace(", on another file system", "").replace(", 2 workers", "")
        if kind not in self.expected:
            out, begun = self.folder / f"reference {kind}", time.monotonic()
            codes = ended(launched(self.scenarios[name], out, self.folder / "log.txt", None), after=None)
            if any(codes):
                raise RuntimeError(f"the uninterrupted run of {name} ended with {codes}: see {self.folder}/log.txt")
            self.expected[kind] = self.scenarios[name].outcome(out)
            self.seconds[kind] = time.monotonic() - begun
        return kind, self.expected[kind]

    def moment(self, name: str, kind: str) -> tuple[str, Callable[[], None] | None, float | None]:
        """Where or when the next session is killed."""
        places = self.scenarios[name].places or {**PLACES, "drawing examples": EXAMPLES[kind.partition(",")[0]]}
        place = self.rng.choice([*places, "any time", "any time"])
        if place == "any time":
            return place, None, self.rng.uniform(0.02, self.seconds[kind])
        return place, partial(armed, places[place], self.rng.randint(1, places[place].most)), None

    def run(self, name: str, *, kills: int) -> None:
        """A run that is killed so many times, unless it ends before, and then goes on to its end."""
        kind, expected = self.reference(name)
        scenario = self.scenarios[name]
        self.runs += 1
        out = (scenario.root or self.folder) / f"run{self.runs}"
        log = self.folder / f"run{self.runs}.txt"
        places = []
        for _ in range(kills):
            place, arm, after = self.moment(name, kind)
            codes = ended(launched(scenario, out, log, arm), after=after)
            if -signal.SIGKILL in codes:
                self.killed[name, place] += 1
                places.append(place)
                torn = scenario.whole(out) if scenario.whole is not None else None
                if torn is not None and same(expected, torn):
                    self.lost.append(f"{name}: after a kill at {place} another file than the whole one is there")
            elif any(codes):
                self.lost.append(f"{name}: a session ended with {codes} after kills at {places}")
                print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
                return
            else:  # it came to its end before the moment
                break
        else:
            codes = ended(launched(scenario, out, log, None), after=None)
        differs = [f"exit codes {codes}"] if any(codes) else same(expected, scenario.outcome(out))
        left = [str(p) for p in (*out.parent.glob(f"{UNFINISHED}*"), *out.rglob(f"{UNFINISHED}*"))]
        if differs or left:
            self.lost.append(f"{name}: after kills at {places}: {differs[:4]} differ, {left[:4]} left")
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        else:
            shutil.rmtree(out)
        print(f"{name}: {', '.join(places)}: {'LOST' if differs or left else 'the same'}", flush=True)

    def table(self, seconds: float) -> Iterator[str]:
        """The report."""
        yield f"# Kills: {sum(self.killed.values())} by SIGKILL in {self.runs} runs, {len(self.lost)} lost"
        yield ""
        yield (
            "Each run is killed, resumed, killed again, and at last goes on to its end. Its last.ckpt (weights, "
            "averages, optimiser, schedule), best.ckpt's weights and rows of metrics.csv are then compared with those "
            "of an uninterrupted run, to the bit; a made dataset file by file. Nothing half written may be left."
        )
        yield ""
        machine = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, torch {torch.__version__}"
        yield f"`make kills`, {machine}, {seconds / 60:.1f} min."
        yield ""
        yield "| run | killed | kills |"
        yield "|---|---|---:|"
        for (name, place), count in sorted(self.killed.items()):
            yield f"| {name} | {place} | {count} |"
        yield ""
        yield from ([f"- lost: {line}" for line in self.lost] or ["Lost: none."])


@contextmanager
def folder(given: str | None) -> Iterator[Path]:
    """Where the runs are made."""
    if given is not None:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main() -> int:
    """Kill until there are enough kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the runs are made, and kept; none is a temporary one")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--only", help="of the scenarios those whose name begins so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    with folder(options.folder) as made:
        campaign = Campaign(made, options.seed)
        try:
            while sum(campaign.killed.values()) < options.kills:
                for name in campaign.scenarios:
                    left = options.kills - sum(campaign.killed.values())
                    if name.startswith(options.only or "") and left > 0:
                        campaign.run(name, kills=min(4, left))
        finally:
            if campaign.other is not None:
                shutil.rmtree(campaign.other)
        report = "\n".join(campaign.table(time.monotonic() - begun)) + "\n"
        print(report)
        if options.report is not None:
            write_text(options.report, report)
        return len(campaign.lost) > 0


if __name__ == "__main__":
    sys.exit(main())
