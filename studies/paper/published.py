"""The paper's published figures (arXiv 2101.11605), row by row, with the model of each."""

from typing import Any, NamedTuple


class Count(NamedTuple):
    """A model's size: parameters and multiply-adds as the paper prints them, empty where it prints none."""

    name: str
    px: int
    parameters: str = ""
    madds: str = ""
    about: str = ""
    secondary: bool = False  # the figures come from a source that cites the paper


class TopOne(NamedTuple):
    """ImageNet accuracy in per cent."""

    training: str
    name: str
    px: int
    top1: float
    top5: float | None = None
    step_ms: float | None = None  # forward and backward of 32 images on a TPU-v3; from a secondary source


class Coco(NamedTuple):
    """Mask R-CNN on COCO val: box and mask AP in per cent, and the shipped recipe that runs it."""

    what: str
    box: float
    mask: float
    name: str
    px: int | None = 1024  # None where it was not recovered
    options: tuple[tuple[str, Any], ...] = ()
    recipe: str | None = None


COUNTS = [
    Count("resnet50", 1024, "25.5M", "85.4G", "Table 1; parameters with the classifier"),
    Count("botnet50", 1024, "20.8M", "102.98G", "Table 1"),
    Count("resnet101", 1024, "", "162.99G"),
    Count("botnet101", 1024),
    Count("resnet152", 1024, "", "240.56G"),
    Count("botnet152", 1024),
    Count("botnet200", 1024),
    Count("resnet50", 224, "25.5M", "3.79G"),
    Count("botnet50", 224, "20.8M", "4.27G"),
    Count("botnet_s1_50", 224, "20.8M"),
    Count("botnet_s1_59", 224, "33.5M", "", "T3", secondary=True),
    Count("botnet_s1_110", 224, "54.7M", "", "T4", secondary=True),
    Count("botnet_s1_128", 256, "75.1M", "", "T5", secondary=True),
    Count("botnet_s1_77", 320, "53.9M", "", "T6", secondary=True),
    Count("botnet_s1_128", 384, "75.1M", "", "T7", secondary=True),
    Count("botnet26", 224, about="ours, for small machines"),
    Count("botnet14", 224, about="ours, for tests"),
    Count("seresnet50", 224, about="SENet"),
    Count("seresnet101", 224, about="SENet"),
    Count("seresnet152", 288, about="SENet"),
    Count("resnest50d", 224, about="ResNeSt"),
    Count("tf_efficientnet_b4", 380, about="EfficientNet"),
    Count("tf_efficientnet_b5", 456, about="EfficientNet"),
    Count("tf_efficientnet_b6", 528, about="EfficientNet"),
    Count("tf_efficientnet_b7", 600, about="EfficientNet"),
]

IMAGENET = [
    TopOne("regular, 100 epochs", "resnet50", 224, 76.8),
    TopOne("regular, 100 epochs", "botnet50", 224, 77.0),
    TopOne("regular, 100 epochs", "botnet_s1_50", 224, 77.7),
    TopOne("improved, 200 epochs", "resnet50", 224, 77.7, 93.9),
    TopOne("improved, 200 epochs", "botnet50", 224, 78.3, 94.2),
    TopOne("improved, 200 epochs", "botnet_s1_50", 224, 79.1, 94.4),
    TopOne("scaled, 350 epochs (T3)", "botnet_s1_59", 224, 81.7),
    TopOne("scaled, 350 epochs (T4)", "botnet_s1_110", 224, 82.8, None, 181.3),
    TopOne("scaled, 350 epochs (T5)", "botnet_s1_128", 256, 83.5, None, 355.2),
    TopOne("scaled, 350 epochs (T6)", "botnet_s1_77", 320, 84.0, None, 578.1),
    TopOne("scaled, 350 epochs (T7)", "botnet_s1_128", 384, 84.7, None, 804.5),
    TopOne("RandAugment", "tf_efficientnet_b7", 600, 84.7, None, 1397.0),
]

COCO: dict[str, list[Coco]] = {
    "Training length, jitter [0.8, 1.25]": [
        Coco("12 epochs", 39.0, 35.0, "resnet50"),
        Coco("12 epochs", 39.4, 35.3, "botnet50", recipe="botnet50-12ep"),
        Coco("24 epochs", 41.2, 36.9, "resnet50", recipe="r50-24ep"),
        Coco("24 epochs", 42.8, 38.0, "botnet50", recipe="botnet50-24ep"),
        Coco("36 epochs", 42.1, 37.7, "resnet50", recipe="r50-36ep"),
        Coco("36 epochs", 43.6, 38.9, "botnet50", recipe="botnet50-36ep"),
        Coco("72 epochs", 42.8, 37.9, "resnet50"),
        Coco("72 epochs", 43.7, 38.7, "botnet50"),
    ],
    "Scale jitter, 72 epochs": [
        Coco("jitter [0.5, 2]", 43.7, 39.1, "resnet50"),
        Coco("jitter [0.5, 2]", 45.3, 40.5, "botnet50"),
        Coco("jitter [0.1, 2]", 43.8, 39.2, "resnet50", recipe="r50-72ep-jitter"),
        Coco("jitter [0.1, 2]", 45.9, 40.7, "botnet50", recipe="botnet50-72ep-jitter"),
    ],
    "Content and position, 36 epochs": [
        Coco("3×3 convolutions", 42.1, 37.7, "resnet50", recipe="r50-36ep"),
        Coco("content only", 42.7, 38.3, "botnet50", options=(("position", "none"),)),
        Coco("relative only", 43.1, 38.4, "botnet50", options=(("position", "relative_only"),)),
        Coco("content + relative", 43.6, 38.9, "botnet50", recipe="botnet50-36ep"),
        Coco("content + absolute", 42.5, 38.1, "botnet50", options=(("position", "absolute"),)),
    ],
    "Depth, 36 epochs": [
        Coco("ResNet-101", 43.3, 38.4, "resnet101"),
        Coco("BoT101", 45.5, 40.4, "botnet101", recipe="botnet101-36ep"),
        Coco("ResNet-152", 44.2, 39.1, "resnet152"),
        Coco("BoT152", 46.0, 40.6, "botnet152", recipe="botnet152-36ep"),
    ],
    "Larger images, 72 epochs, jitter [0.1, 2]": [
        Coco("BoT50", 46.1, 41.2, "botnet50", 1280),
        Coco("BoT101", 47.4, 42.0, "botnet101", recipe="botnet101-72ep-jitter"),
        Coco("BoT101", 47.9, 42.4, "botnet101", 1280),
        Coco("BoT152", 49.5, 43.7, "botnet152", None, recipe="botnet152-72ep-jitter"),
        Coco("BoT200", 49.7, 44.4, "botnet200", 1280, recipe="botnet200-1280-72ep"),
    ],
    "Inserted, not replaced (non-local comparison), 36 epochs": [
        Coco("none", 42.1, 37.7, "resnet50", recipe="r50-36ep"),
        Coco(
            "+1 non-local block in c4",
            43.1,
            38.4,
            "botnet50",
            options=(("insert", ("c4",)), ("insert_block", "non_local")),
        ),
        Coco("+1 BoT block in c4", 43.7, 38.9, "botnet50", options=(("insert", ("c4",)),)),
        Coco("+2 BoT blocks, c4 and c5", 44.9, 39.7, "botnet50", options=(("insert", ("c4", "c5")),)),
    ],
}
