"""The variants side by side: parameters, multiply-adds, what pretrained weights keep, time of a forward pass."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import ultralytics
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.tasks import DetectionModel

from botvision.attention import MHSA2d, attention_statistics
from botvision.bench.race import Engine, Setting, race
from botvision.files import write_json, write_text
from botvision_yolo.transfer import load_pretrained
from botvision_yolo.variants import VARIANTS, installed, is_installed, users_own, write_yaml


class Line(NamedTuple):
    """One variant of one scale.

    Attributes:
        name: of its yaml.
        parameters: all of them.
        gflops: of a 640 px image by torch's counter, a multiply and an add as two, positions factored.
        kept: tensors that aligned rows keep of the scale's own weights, of so many.
        kept_by_number: tensors that ultralytics' own loader keeps.
        identical: whether what the head is given stays the same after loading.
        entropy: entropy / log N of each head of attention at its start, on one 640 px image, by the batch's statistics.
        ratio: median over the rounds of a forward pass's time to the plain model's; none without rounds.
    """

    name: str
    parameters: int
    gflops: float
    kept: tuple[int, int]
    kept_by_number: int
    identical: bool
    ratio: float | None
    entropy: tuple[float, ...] = ()

    def __str__(self) -> str:
        kept = f"{self.kept[0]} of {self.kept[1]} | {self.kept_by_number} | {'yes' if self.identical else 'no'}"
        time = "" if self.ratio is None else f"{self.ratio:.2f}"
        return f"| {self.name} | {self.parameters / 1e6:.3f} | {self.gflops:.2f} | {kept} | {time} |"

    def heads(self) -> str:
        """A line on its attention, head by head."""
        return f"{self.name}: entropy / log N of its heads at the start {', '.join(f'{e:.4f}' for e in self.entropy)}"


def table(
    *, model: str = "yolo11", scales: str = "nsm", imgsz: int = 640, rounds: int = 9, out: str | Path | None = None
) -> str:
    """Every variant beside the plain model, as Markdown.

    Args:
        model: a yaml's name without scale, e.g. yolo11, yolov8, yolo26.
        scales: letters.
        imgsz: px of the square image that is timed, batch 1; GFLOPs are always of 640 px.
        rounds: of every variant in turn; 0 times nothing.
        out: Markdown file; the numbers go beside it as JSON.

    Raises:
        ValueError: a model or a scale that ultralytics does not have.
    """
    check_asked(model, scales)
    lines = [line for scale in scales for line in lines_of(f"{model}{scale}", imgsz=imgsz, rounds=rounds)]
    head = ["| model | M parameters | GFLOPs at 640 px | tensors kept | by number | neck identical | time × plain |"]
    head.append("|---|---|---|---|---|---|---|")
    note = f"ultralytics {ultralytics.__version__}; time: batch 1, {imgsz} px, fused, {rounds} rounds; {Engine()}"
    text = "\n".join([*head, *map(str, lines), "", *(f"- {line.heads()}" for line in lines if line.entropy), "", note])
    if out is not None:
        write_text(Path(out), text + "\n")
        write_json(Path(out).with_suffix(".json"), {"note": note, "lines": [line._asdict() for line in lines]})
    return text


def check_asked(model: str, scales: str) -> None:
    """Refuse what ultralytics has no yaml of, by which of the two it is."""
    here, families = f"ultralytics {ultralytics.__version__}", detectors()
    if model not in families:
        raise ValueError(
            f"no model {model!r} in {here}, by name without scale, task and suffix; use one of {', '.join(families)}"
        )
    has = [scale for scale in "nsmblx" if is_installed(f"{model}{scale}")]
    lacking = [scale for scale in scales if scale not in has]
    if lacking or not scales:
        raise ValueError(f"scales={scales!r}, but {model} has {', '.join(has)} in {here}; e.g. scales={''.join(has)}")


def detectors() -> list[str]:
    """The plain detectors that ultralytics brings, without scale."""
    return sorted({re.sub(r"(\d)[a-z]$", r"\1", name) for name in installed() if "-" not in name})


def lines_of(base: str, *, imgsz: int, rounds: int) -> list[Line]:
    """One scale's variants, the plain model first; a file of the user's here stands for the variant of its name."""
    for name in (base, *(f"{base}-{variant}" for variant in VARIANTS)):
        if own := users_own(f"{name}.yaml"):
            print(f"{name}: your own file {own.resolve()}", file=sys.stderr)
    plain = built(base)
    names = [base, *(f"{base}-{variant}" for variant in VARIANTS if derivable(f"{base}-{variant}"))]
    rows = race(step, names, Setting(imgsz, 1, False, Engine()), what=base, rounds=rounds) if rounds else []
    ratios = {row.name: row.ratio for row in rows}
    return [line(name, plain, ratios.get(name)) for name in names]


def line(name: str, plain: DetectionModel, ratio: float | None) -> Line:
    """One variant's counts, and what it keeps of the plain model."""
    model = built(name)
    own = model.state_dict()
    by_number = sum(key in own and own[key].shape == value.shape for key, value in plain.state_dict().items())
    report = load_pretrained(model, plain, verbose=False)
    image = torch.rand(1, 3, 320, 416)
    same = all(torch.equal(a, b) for a, b in zip(neck(model, image), neck(plain, image), strict=True))
    parameters = sum(p.numel() for p in model.parameters())
    kept = (report.kept, report.total)
    return Line(name, parameters, gflops(model), kept, by_number, same, ratio, entropy(name))


def entropy(name: str) -> tuple[float, ...]:
    """Entropy / log N of each head of a new model; empty where it has no attention of ours."""
    model = built(name)
    if not any(isinstance(layer, MHSA2d) for layer in model.modules()):
        return ()
    image = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))
    return tuple(round(head.entropy, 5) for head in attention_statistics(model.train(), image))


def built(name: str) -> DetectionModel:
    """A model in eval by its yaml's name, with BatchNorms that do something, so that equal features mean something."""
    path = f"{name}.yaml"
    if "-" in name and users_own(path) is None:
        path = str(write_yaml(path))
    torch.manual_seed(0)
    model = DetectionModel(path, verbose=False).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return model


def derivable(name: str) -> bool:
    """Whether a yaml has what the variant changes, or the user has one of that name."""
    if users_own(f"{name}.yaml"):
        return True
    try:
        write_yaml(f"{name}.yaml")
    except ValueError:
        return False
    return True


@torch.inference_mode()
def neck(model: DetectionModel, image: Tensor) -> list[Tensor]:
    """What the detection head is given: its maps, fine to coarse."""
    given: list[Tensor] = []
    hook = model.model[-1].register_forward_pre_hook(lambda _, inputs: given.extend(t.clone() for t in inputs[0]))
    model(image)
    hook.remove()
    return given


@torch.inference_mode()
def gflops(model: DetectionModel) -> float:
    """Operations of a 640 px image by torch's counter, position logits factored as in the paper."""
    layers = [layer for layer in model.modules() if isinstance(layer, MHSA2d)]
    chosen = [layer.backend for layer in layers]
    for layer in layers:
        layer.backend = "explicit"
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 640, 640))
    for layer, backend in zip(layers, chosen, strict=True):
        layer.backend = backend
    return float(counter.get_total_flops()) / 1e9


def step(name: str, setting: Setting) -> Callable[[], Any]:
    """A forward pass as ultralytics predicts: fused, in eval."""
    model = built(name).fuse(verbose=False)
    image = torch.rand(setting.batch, 3, setting.size, setting.size)
    return lambda: model(image)
