"""Image classification with any timm model: train, evaluate, predict."""

from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.classify.commands import evaluate, predict, train
    from botvision.classify.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
    from botvision.classify.model import Classifier, build_model, load_classifier

__all__ = [
    "AugmentConfig",
    "Classifier",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "build_model",
    "evaluate",
    "load_classifier",
    "predict",
    "train",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(("train", "evaluate", "predict"), f"{__name__}.commands"),
        **dict.fromkeys(("AugmentConfig", "DataConfig", "ModelConfig", "OptimConfig"), f"{__name__}.config"),
        **dict.fromkeys(("Classifier", "build_model", "load_classifier"), f"{__name__}.model"),
    },
)
