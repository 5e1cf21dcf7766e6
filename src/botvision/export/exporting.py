"""Write an exported file whole or not at all: written, proved, measured, then in its place."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from botvision.deploy.graph import WEIGHTS
from botvision.export.calibration import Calibration, Drop
from botvision.export.formats import Write, runner, writer
from botvision.export.int8 import quantised_onnx, quantised_xml
from botvision.export.proof import Proof, proved
from botvision.export.subject import Subject
from botvision.files import UNFINISHED, clear_leftovers, held, sha256

EXACT = "float32"


class MismatchError(ValueError):
    """A file that does not give what the model gives."""

    exit_code = 1  # not the user's mistake


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: the file.
        about: what it says of itself.
        proof: the file beside the eager model.
        size: bytes, of weights that lie beside it too.
        nodes: operators of the graph.
        drop: accuracy before and after, of int8 and of bfloat16 where it was measured.
    """

    path: Path
    about: dict[str, Any]
    proof: Proof
    size: int
    nodes: int
    drop: Drop | None

    def __str__(self) -> str:
        lines = ["largest differences to eager torch:", *(f"  {row}" for row in self.proof.differences)]
        if self.about["task"] == "maskrcnn" and not self.proof.objects:
            lines += ["  nothing was found in any of these images: the proof of boxes is empty; give --images FOLDER"]
        opset = f", opset {self.about['opset']}" if self.path.suffix == ".onnx" else ""
        speed = f"{self.proof.latency_ms:.1f} ms for one image, eager torch {self.proof.eager_ms:.1f}"
        lines += [f"{self.about['precision']}{opset}, {self.nodes} nodes, {self.size / 2**20:.1f} MiB, {speed}"]
        lines += [str(self.drop)] if self.drop is not None else []
        bounded = self.about["precision"] == EXACT or self.drop is not None
        told = "written and proved" if bounded else "written; how much accuracy it loses was not measured"
        return "\n".join([*lines, f"{self.path} is {told}"])


def exported(subject: Subject, out: Path, *, opset: int, precision: str, calibration: Calibration | None) -> Exported:
    """Write the file beside its place, prove it there, and move it.

    Raises:
        MismatchError: it does not give what torch gives, or int8 loses too much; nothing is left.
        OSError: the place cannot be written.
    """
    before = None if calibration is None else calibration.before(subject)
    with beside(out) as folder:
        path, drop = folder / out.name, None
        write = writer(subject, out.suffix, folder, opset=opset)
        about = {**subject.about, "precision": precision}
        about |= {"opset": opset, "torch": str(torch.__version__)} if out.suffix in (".onnx", ".xml") else {}
        if calibration is not None and precision == "int8":
            write = quantised(write, subject, about, folder, suffix=out.suffix, calibration=calibration)
        nodes = write(path, about)
        proof = proved(subject, runner(path, subject.outputs, precision=precision))
        if precision == EXACT and (wrong := proof.mismatch()):
            raise MismatchError(f"{out.name} does not give what torch gives: {wrong}; no file is left")
        if calibration is not None and before is not None:
            drop = calibration.drop(subject, path, before)
            if drop.lost > calibration.max_drop:
                raise MismatchError(f"{drop}, more than max_ap_drop={calibration.max_drop}; no file is left")
            about |= {"accuracy": drop._asdict()}
        about |= {"proof": proof.content, "nodes": nodes}
        if out.suffix == ".xml":  # two files: each export's own
            about |= {WEIGHTS: sha256(path.with_suffix(".bin"))}
        write(path, about)
        parts = [path.with_suffix(".bin"), path] if out.suffix == ".xml" else [path]
        size = sum(part.stat().st_size for part in parts)
        if len(parts) > 1:
            out.unlink(missing_ok=True)  # a kill between the two must not leave one's graph with another's weights
        for part in parts:
            part.chmod(0o644)
            part.replace(out.parent / part.name)
        return Exported(out, about, proof, size, nodes, drop)


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder for what becomes `out`; those of killed exports of it go, and none that another is writing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{UNFINISHED}{out.name}-"
    clear_leftovers(out.parent, prefix=prefix, stale=0)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix))
    try:
        with held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def quantised(
    write: Write, subject: Subject, about: dict[str, Any], folder: Path, *, suffix: str, calibration: Calibration
) -> Write:
    """A writer of the file in int8, of one in float32."""
    own = folder / "float32"  # where no file can have the name that is asked for
    own.mkdir()
    plain = own / f"plain{suffix}"
    write(plain, about)
    make = quantised_onnx if suffix == ".onnx" else quantised_xml
    return make(plain, calibration.feeds(subject), own)
