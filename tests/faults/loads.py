"""Hostile files for every loader: payloads, bombs, names of hubs, corrupt and odd contents."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from botvision.backbone import create_model, from_pretrained, load_resnet, load_weights, save_pretrained
from botvision.classify.config import ModelConfig as ClassifierConfig
from botvision.classify.evaluation import open_real_labels
from botvision.classify.model import build_model as build_classifier
from botvision.classify.model import describe as describe_classifier
from botvision.classify.model import load_classifier
from botvision.classify.shards import find_shards
from botvision.classify.sources import read_class_names
from botvision.cli import main
from botvision.engine.checkpoint import newest_whole
from botvision.engine.folder import check_folder
from botvision.maskrcnn.checkpoint import build_model, carry_over, describe, load_detector
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.config import ModelConfig
from botvision.maskrcnn.layouts import find_splits
from tests.faults.harness import Family, Wrong
from tests.faults.jsons import ODD, parent, places

CHANNELS = {"channels": [8, 16, 32, 64]}
DETECTOR = ModelConfig("botnet14", "nano", 64, backbone_options=CHANNELS)
CLASSIFIER = ClassifierConfig("botnet14", 32, options=CHANNELS)
HUBS = ("hf-hub:timm/resnet50.a1_in1k",
        "hf_hub:x/y", "local-dir:/tmp", "timm/resnet18", "https://example.org/m.pt", "..",
        "../../etc/passwd", "resnet50 ", "", "hf-hub:" + "a" * 300)  # fmt: skip
SCHEMES = ("pipe:touch canary", "PIPE:touch canary", " pipe:touch canary", "file:///etc/passwd", "file://host/x.tar",
           "ftp://host/x.tar", "gopher://host", "data:,x", "s3://bucket/x.tar", "gs://bucket/x.tar", "ssh:host:x",
           "hdfs://x", "ais://x", "jar:file:x", "javascript:x", "hf://x/y.tar")  # fmt: skip
YAMLS = (
    "!!python/object/apply:os.system ['touch canary']",
    "a: !!python/object/new:subprocess.Popen [['touch', 'canary']]",
    "names: !!python/name:os.system\ntrain: x",
    "!!python/module:os",
    "x: &a [1]\n" + "".join(f"x{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(20)),
    "a: &a\n  <<: *a\n  b: 1",
    "? [1, 2]\n: 3",
    "a: 2001-99-99",
    "[" * 3000,
    "- " * 3000 + "a",
    "\0",
    "a: \t b:\t- c",
    "names: {a: b}\ntrain: [..]",
    "names: [a]\ntrain: {x: y}",
    "%YAML 9.9\n---\na",
    "data: 5\nmodel: []\noptim: x",
    "out: [1]\n" * 3,
    "9" * 6000,
    "a: 0b",
    "null",
)
TEXTS = (b"", b"\xff\xfe", b"\0" * 99, b"a\r\nb", "é".encode("latin-1"), b"x" * 100_000)


class Payload:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


class Evaluated:
    """What a pickle would compute."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').system('touch canary')",)


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


class Loads:
    """Hostile loads by number: a kind of file, and the loaders that read it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        os.chdir(root)  # where a payload would leave its mark
        torch.manual_seed(0)
        detector = build_model(DETECTOR, 2)
        classifier = build_classifier(CLASSIFIER, 3)
        about = describe(DETECTOR, [Category(1, "a"), Category(4, "b")])
        progress = {"global_step": 3, "epoch": 1, "loops": {}, "optimizer_states": []}
        self.whole = {
            "maskrcnn": {"state_dict": state_of(detector), "botvision": about, **progress},
            "classify": {"state_dict": state_of(classifier), "botvision":
                         describe_classifier(CLASSIFIER, ["a", "b", "c"], classifier, crop=0.9), **progress},
        }  # fmt: skip
        self.detector = detector
        self.backbone = create_model("botnet14", num_classes=3, img_size=64, **CHANNELS)
        save_pretrained(self.backbone, root / "pretrained", how_trained="not at all")
        self.kinds = (
            self.pickled, self.torn, self.odd, self.of_a_hub, self.bomb, self.tensors, self.safetensors,
            self.pretrained, self.yaml, self.index, self.text, self.folder,
        )  # fmt: skip

    def case(self, number: int) -> None:
        """One kind of file, read by every loader that reads it."""
        rng = random.Random(f"load {number}")
        canary = self.root / "canary"
        canary.unlink(missing_ok=True)
        try:
            self.kinds[number % len(self.kinds)](rng)
        finally:
            if canary.exists():
                raise Wrong("a payload ran")

    def try_all(self, *loads: Callable[[], object]) -> None:
        """Each loader in turn: all refusals but the last are judged by their kind alone."""
        for load in loads[:-1]:
            with suppress(ValueError, FileNotFoundError):
                load()
        loads[-1]()

    def checkpoints(self, path: Path, rng: random.Random) -> None:
        """Every loader of checkpoints and weights."""
        loads: list[Callable[[], object]] = [
            lambda: load_detector(path),
            lambda: load_classifier(path),
            lambda: carry_over(self.detector, path),
            lambda: load_weights(self.backbone, path),
            lambda: load_resnet(self.backbone, path),
            lambda: load_weights(self.backbone, path, exact=False),
            lambda: newest_whole(path.parent, task="maskrcnn"),
        ]
        rng.shuffle(loads)
        self.try_all(*loads)

    def place(self, name: str) -> Path:
        """A path in an empty folder."""
        folder = self.root / "case"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        return folder / name

    def pickled(self, rng: random.Random) -> None:
        """Payloads, alone, in a torch archive, beside real weights."""
        path = self.place(rng.choice(("a.ckpt", "a.pth", "a.pt", "a.bin")))
        payload = rng.choice((Payload(), Evaluated()))
        whole = dict(self.whole[rng.choice(("maskrcnn", "classify"))])
        content: Any = rng.choice(
            (payload, {"state_dict": payload}, {**whole, "more": payload}, {**whole, "botvision": payload},
             {**whole, "state_dict": {"model.x": payload}}, [payload])
        )  # fmt: skip
        kind = rng.randrange(3)
        if kind == 0:
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == 1)
        self.checkpoints(path, rng)

    def torn(self, rng: random.Random) -> None:
        """A whole checkpoint, cut or with other bytes."""
        path = self.place("last.ckpt")
        torch.save(self.whole["maskrcnn"], path, _use_new_zipfile_serialization=rng.random() < 0.7)
        changed = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(min(len(changed), 3000))
            if rng.random() < 0.3:
                at = len(changed) - 1 - rng.randrange(min(len(changed), 3000))
            changed[at] = rng.randrange(256)
        if rng.random() < 0.3:
            del changed[rng.randrange(len(changed)) :]
        path.write_bytes(changed)
        self.checkpoints(path, rng)

    def odd(self, rng: random.Random) -> None:
        """Real weights whose description is odd."""
        task = rng.choice(("maskrcnn", "classify"))
        whole = {**self.whole[task], "botvision": json.loads(json.dumps(self.whole[task]["botvision"]))}
        for _ in range(rng.randint(1, 2)):
            if rng.random() < 0.2:
                whole[rng.choice(list(whole))] = rng.choice(ODD)
            elif isinstance(whole["botvision"], dict) and whole["botvision"]:
                found = rng.choice(places(whole["botvision"]))
                holder = parent(whole["botvision"], found)
                if rng.random() < 0.3:
                    del holder[found[-1]]
                else:
                    holder[found[-1]] = rng.choice(ODD)
        path = self.place("last.ckpt")
        torch.save(whole, path)
        if rng.random() < 0.3:
            newest_whole(path.parent, task=task)
        load_detector(path) if task == "maskrcnn" else load_classifier(path)

    def of_a_hub(self, rng: random.Random) -> None:
        """Real weights of a model that a hub, an address or a folder would bring."""
        task, name = rng.choice(("maskrcnn", "classify")), rng.choice(HUBS)
        about = json.loads(json.dumps(self.whole[task]["botvision"]))
        key, options = ("backbone", "backbone_options") if task == "maskrcnn" else ("name", "options")
        if rng.random() < 0.5:
            about["model"][key] = name
        else:
            about["model"][options] = rng.choice(
                ({"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"pretrained_cfg": {"url": "http://x/y.pth"}},
                 {"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}}, {"cache_dir": "/tmp"}, {"scriptable": "x"})
            )  # fmt: skip
            about["model"][key] = rng.choice(("resnet18", "botnet14"))
        path = self.place("last.ckpt")
        torch.save({**self.whole[task], "botvision": about}, path)
        load_detector(path) if task == "maskrcnn" else load_classifier(path)
        raise Wrong(f"built {about['model']}")

    def bomb(self, rng: random.Random) -> None:
        """Small files that unpack to, or describe, more than a memory holds."""
        path = self.place("last.ckpt")
        kind = rng.randrange(5)
        whole = dict(self.whole["maskrcnn"])
        if kind == 0:
            torch.save(whole, path)
            packed = io.BytesIO()
            with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
                for number, entry in enumerate(archive.namelist()):
                    other.writestr(entry, bytes(10**8) if number == 5 else archive.read(entry))
            path.write_bytes(packed.getvalue())
        elif kind == 1:
            whole["botvision"] = describe(DETECTOR, [Category(n, "a") for n in range(10**5)])
            torch.save(whole, path)
        elif kind == 2:
            name = next(iter(whole["state_dict"]))
            whole["state_dict"] = {**whole["state_dict"], name: torch.zeros(1).expand(10**6, 10**5)}
            torch.save(whole, path)
        elif kind == 3:
            wide = rng.choice(
                ({"channels": [8, 16, 32, 10**6]}, {"channels": [10**5] * 4}, {"layers": [1, 1, 1, 10**5]})
            )
            model = {**asdict(DETECTOR), "backbone_options": {**CHANNELS, **wide}}
            torch.save({**whole, "botvision": {**whole["botvision"], "model": model}}, path)
        else:
            model = {**asdict(DETECTOR), "img_size": rng.choice((10**9, [10**6, 10**9], 10**18))}
            torch.save({**whole, "botvision": {**whole["botvision"], "model": model}}, path)
        load_detector(path)
        raise Wrong("was built")

    def tensors(self, rng: random.Random) -> None:
        """State dicts of tensors that are none, or of other kinds."""
        path = self.place("a.pth")
        state: dict[Any, Any] = dict(self.backbone.state_dict())
        name = rng.choice(list(state))
        state[name] = rng.choice(
            (torch.zeros(1).expand(10**6, 10**6), torch.eye(4).to_sparse(), torch.zeros(0),
             torch.zeros(3, dtype=torch.complex64), torch.tensor(float("nan")), 5, None, "x", [torch.zeros(2)],
             {"a": torch.zeros(1)}, torch.zeros(7, 7, 7, 7, 7))
        )  # fmt: skip
        if rng.random() < 0.2:
            state[rng.choice((7, None, ("a", "b")))] = torch.zeros(1)
        torch.save(rng.choice((state, {"state_dict": state}, {"model": state}, [state], torch.zeros(3))), path)
        self.checkpoints(path, rng)

    def safetensors(self, rng: random.Random) -> None:
        """A file of safetensors, cut, flipped, or with another header."""
        path = self.place("a.safetensors")
        save_file({k: v.contiguous() for k, v in self.backbone.state_dict().items()}, path)
        content = bytearray(path.read_bytes())
        kind, length = rng.randrange(5), struct.unpack("<Q", content[:8])[0]
        if kind == 0:
            del content[rng.randrange(len(content)) :]
        elif kind == 1:
            content[:8] = struct.pack("<Q", rng.choice((0, 1, 2**40, 2**63, 2**64 - 1)))
        elif kind == 2:
            for _ in range(rng.randint(1, 5)):
                content[8 + rng.randrange(length)] = rng.randrange(256)
        elif kind == 3:
            header = {"a": {"dtype": rng.choice(("F32", "F8_E5M2", "X")), "shape": rng.choice(([2**40], [-1], [2, 2])),
                            "data_offsets": rng.choice(([0, 2**42], [8, 0], [0, 16]))}}  # fmt: skip
            text = json.dumps(header).encode()
            content = bytearray(struct.pack("<Q", len(text)) + text + bytes(16))
        else:
            content[rng.randrange(len(content))] ^= 255
        path.write_bytes(content)
        self.try_all(lambda: load_resnet(self.backbone, path), lambda: load_weights(self.backbone, path))

    def pretrained(self, rng: random.Random) -> None:
        """A folder of save_pretrained with another configuration."""
        folder = self.root / "pretrained"
        path, whole = folder / "config.json", (folder / "config.json").read_bytes()
        config = json.loads(whole)
        if rng.random() < 0.5:
            found = rng.choice(places(config))
            parent(config, found)[found[-1]] = rng.choice(ODD)
        else:
            more = {"url": "https://example.org/x.pth", "hf_hub_id": "a/b", "file": "/etc/passwd", "source": "hf-hub",
                    "state_dict": {"a": 1}, "custom_load": True, "architecture": "hf-hub:a/b"}  # fmt: skip
            key = rng.choice(list(more))
            rng.choice((config, config.setdefault("pretrained_cfg", {})))[key] = more[key]
        try:
            path.write_text(json.dumps(config))
            from_pretrained(folder)
        finally:
            path.write_bytes(whole)

    def yaml(self, rng: random.Random) -> None:
        """YAML as options, as a YOLO set's, and as a run's own."""
        text = rng.choice(YAMLS)
        path = self.place("data.yaml")
        path.write_text(text)
        quiet = io.StringIO()
        with redirect_stderr(quiet), redirect_stdout(quiet), suppress(SystemExit):
            code = main([rng.choice(("maskrcnn", "classify")), "train", "--config", str(path), "--out", "run"])
            if code == 0:
                raise Wrong("trained")
        if "Traceback" in quiet.getvalue():
            raise Wrong(f"a traceback: {quiet.getvalue()[-200:]}")
        run = self.root / "resumed"
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text(text)
        with suppress(ValueError):
            check_folder(run, "resume", {"data": {"workers": 0}}, fixed={})
        find_splits(path.parent)

    def index(self, rng: random.Random) -> None:
        """Indexes and patterns of shards that name other schemes."""
        path, url = self.place("x.json"), rng.choice(SCHEMES)
        entry = {"url": url, "nsamples": 3}
        path.write_text(json.dumps({"shardlist": [entry]}))
        self.try_all(lambda: find_shards(url), lambda: find_shards(str(path)))
        raise Wrong(f"{url} was taken")

    def text(self, rng: random.Random) -> None:
        """Class names, real labels and labels of YOLO and VOC that are no text."""
        content = rng.choice(TEXTS)
        path = self.place("classes.txt")
        path.write_bytes(content)
        (path.parent / "real.json").write_bytes(content)
        (path.parent / "a.xml").write_bytes(content)
        self.try_all(
            lambda: open_real_labels(path.parent / "real.json", None),
            lambda: find_splits(path.parent),
            lambda: read_class_names(path),
        )

    def folder(self, rng: random.Random) -> None:
        """A folder in a checkpoint's place, a link to itself, a name that is none."""
        path = self.place("a.ckpt")
        kind = rng.randrange(3)
        if kind == 0:
            path.symlink_to(path)
        elif kind == 1:
            path = path.parent
        else:
            path = Path("x" * 4000)
        self.checkpoints(path, rng) if kind < 2 else load_detector(path)


NAMES = (
    "case",
    "pretrained",
    "last.ckpt",
    "data.yaml",
    "x.json",
    "xxxx",
    "pipe:",
    "PIPE:",
    "a.ckpt",
    "backbone",
    "model",
)


def family(root: Path, count: int) -> Family:
    """Hostile loads."""
    return Family("hostile loads", count, Loads(root).case, named=NAMES)
