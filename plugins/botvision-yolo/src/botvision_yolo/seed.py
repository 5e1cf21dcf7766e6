"""A variant as a checkpoint, so that the untouched `yolo` command can train it."""

from pathlib import Path

from botvision.files import whole_file
from botvision_yolo.model import YOLO
from botvision_yolo.transfer import load_pretrained, unwrapped
from botvision_yolo.variants import split, users_own


def init(target: str | Path, *, weights: str | Path | None = None) -> str:
    """Write a variant's initial weights as a `.pt`.

    Args:
        target: the file to write, named after the variant, e.g. `yolo11n-botnet.pt`, or after a yaml of your own here.
        weights: a `.pt` whose weights it starts from; a bare name such as `yolo11n.pt` is downloaded where it is not
            there. Rows are aligned.

    Returns:
        A line that says what was written, and the command that trains it.

    Raises:
        ValueError: a name that is no variant's, with the nearest; a target that is there.
        FileNotFoundError: no such weights.
    """
    target = Path(target)
    if target.suffix != ".pt":
        raise ValueError(f"a seed is a .pt file; got {target}; e.g. yolo11n-botnet.pt")
    if target.exists():
        raise ValueError(f"{target} is there already; give another name, or remove it")
    name = f"{target.stem}.yaml"
    own = users_own(name)
    if own is None:
        split(name)
    if weights is not None and not Path(weights).is_file() and Path(weights).name != str(weights):
        raise FileNotFoundError(
            f"no weights at {weights}; give a .pt that exists, or a name that ultralytics downloads"
        )
    model, kept = YOLO(name), ""
    if weights is not None:
        source = unwrapped(weights)
        alike = own is None and getattr(source, "task", model.task) == model.task
        if alike and len(source.names) != len(model.model.names):
            net = model.model
            described = {**net.yaml, "nc": len(source.names)}
            model.model = type(net)(described, ch=described.get("channels", 3), verbose=False)
            model.model.task, model.model.args = net.task, net.args
        kept = f", {load_pretrained(model, source)}"
        if alike:
            model.model.names = dict(source.names)
    with whole_file(target) as unfinished:
        model.save(unfinished)
    start = "its initial weights" if weights is None else f"weights from {weights}{kept}"
    what = name if own is None else f"your own {own}"
    return f"{target} holds {what} with {start}; train it: yolo {model.task} train model={target} data=…"
