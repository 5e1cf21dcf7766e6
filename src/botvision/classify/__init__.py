"""Image classification with any timm model: train, score, predict."""

from botvision.classify.model import Classifier, ModelConfig, load_classifier

__all__ = ["Classifier", "ModelConfig", "load_classifier"]
