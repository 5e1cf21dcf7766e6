"""`botvision export`: a command, and a Python function; loads torch when it is called."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from botvision.files import check_free, check_writable

if TYPE_CHECKING:
    from botvision.export.exporting import Exported

FORMATS = (".onnx", ".xml", ".pt2", ".pt")
OPSETS = range(18, 24)  # what torch's exporter writes
Input = Literal["image", "tensor"]
Precision = Literal["float32", "bfloat16", "int8"]


def export(
    model: str,
    *,
    out: Path = Path("model.onnx"),
    input: Input = "image",
    img_size: int | tuple[int, int] | None = None,
    features: bool = False,
    precision: Precision = "float32",
    opset: int = 18,
    licence: str = "not stated",
    images: Path | None = None,
    annotations: Path | None = None,
    calibration_images: Path | None = None,
    max_ap_drop: float = 0.01,
    on_existing: Literal["refuse", "replace"] = "refuse",
) -> "Exported":
    """Export a detector, a classifier or a backbone, and prove the file by running it beside torch.

    Batch and image size stay free, except of models that take one size alone. The file is there only if it gives what
    torch gives: at three sizes, one of them oblong, in batches of 1 and 4, and on a blank image.

    Args:
        model: a `.ckpt` of a run, a folder of save_pretrained, or a backbone by its name (with random weights).
        out: the file, whose ending says what is written: .onnx, .xml (OpenVINO, its .bin beside it), .pt2
            (torch.export) or .pt (TorchScript, of classifiers and backbones).
        input: image takes uint8 (B, H, W, 3), RGB; tensor takes normalised floats (B, 3, H, W), a detector's padded to
            multiples of 64 and with each image's size.
        img_size: px, in place of the training's: of a detector a side of its square, or shortest and longest for free
            sizes.
        features: of a backbone the maps at all strides, in place of the logits.
        precision: float32; bfloat16 for .xml; int8 for .onnx and .xml, which needs images.
        opset: of ONNX, 18 to 23.
        licence: of the weights, kept in the file.
        images: a folder: a detector's file is proved on some of them too. For int8 and bfloat16: the annotations'
            images, or of a classifier class folders; accuracy before and after is measured on them.
        annotations: for a detector's int8, and bfloat16 where its loss is to be measured: COCO JSON of images.
        calibration_images: for int8: a folder of images that ranges are taken from; none takes those of images.
        max_ap_drop: largest loss of int8 and bfloat16, in AP or accuracy, as a fraction; more leaves no file.
        on_existing: where the file is there already: refuse, or replace it.

    Raises:
        FileNotFoundError, ValueError: no such model, or options that do not fit each other or the model.
        MismatchError: the file does not give what torch gives, or int8 loses too much; no file is left.
    """
    out = Path(out)
    check_options(out, opset=opset, precision=precision)
    if Path(model).suffix in (".onnx", ".xml", ".pt2"):
        raise ValueError(f"{model} is an exported file; give the .ckpt or the name that it was exported from")
    if precision == "float32" and (annotations, calibration_images, max_ap_drop) != (None, None, 0.01):
        raise ValueError(
            "annotations, calibration_images and max_ap_drop are for int8 and bfloat16; add --precision int8, or leave "
            "them out"
        )
    if precision == "bfloat16" and calibration_images is not None:
        raise ValueError("calibration_images are for int8: bfloat16 needs no ranges; leave them out")
    if not max_ap_drop >= 0:
        raise ValueError(f"max_ap_drop={max_ap_drop} must be at least 0; e.g. 0.01")
    if annotations is not None and images is None:
        raise ValueError(f"annotations={annotations} say what is on images; give --images FOLDER too")
    check_writable(out.parent)
    check_free([out, *([out.with_suffix(".bin")] if out.suffix == ".xml" else [])], on_existing=on_existing)
    if precision == "int8" and images is None:
        raise ValueError("int8 needs images to take its ranges from and to be measured on; give --images FOLDER")
    from botvision.export.calibration import Calibration
    from botvision.export.exporting import exported
    from botvision.export.subject import subject_of, with_images

    subject = subject_of(model, input=input, img_size=img_size, features=features, licence=licence)
    measured = (
        precision == "int8" or annotations is not None or (precision == "bfloat16" and subject.task == "classify")
    )
    if images is not None and not measured and (subject.task != "maskrcnn" or input != "image"):
        raise ValueError(
            "images prove a detector's file that takes images, or serve int8; leave --images out, or use int8"
        )
    subject = subject if images is None else with_images(subject, images)
    calibration = None
    if measured and images is not None:
        calibration = Calibration(Path(model), images, annotations, calibration_images or images, max_ap_drop)
        calibration.check(subject)
    return exported(subject, out, opset=opset, precision=precision, calibration=calibration)


def check_options(out: Path, *, opset: int, precision: Precision) -> None:
    """Refuse what no file can be, before anything is built.

    Raises:
        ValueError: an ending, an opset or a precision that there is not.
    """
    if out.suffix not in FORMATS:
        raise ValueError(f"out={out} must end in {', '.join(FORMATS)}, which says what is written; e.g. model.onnx")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file as --out, e.g. {out}/model.onnx")
    if opset not in OPSETS:
        raise ValueError(f"opset={opset} is not supported; use {OPSETS[0]} to {OPSETS[-1]}; 18 is read by most engines")
    fits = {"float32": FORMATS, "bfloat16": (".xml",), "int8": (".onnx", ".xml")}[precision]
    if out.suffix not in fits:
        raise ValueError(f"precision={precision} is for {' and '.join(fits)}; got {out.name}")
