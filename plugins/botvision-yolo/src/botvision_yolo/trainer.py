"""ultralytics' trainers, but that pretrained weights come by aligned rows; a worker finds them by name."""

from typing import Any

from ultralytics.models import yolo

from botvision_yolo.transfer import load_pretrained


class AlignedWeights:
    """A trainer's `get_model` that aligns rows."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """The model that a yaml describes, with the weights of another wherever rows agree."""
        model = super().get_model(cfg, None, verbose)  # type: ignore[misc]
        if weights:
            load_pretrained(model, weights, verbose=verbose)
        return model


class DetectionTrainer(AlignedWeights, yolo.detect.DetectionTrainer):
    """Object detection."""


class SegmentationTrainer(AlignedWeights, yolo.segment.SegmentationTrainer):
    """Instance segmentation."""


class PoseTrainer(AlignedWeights, yolo.pose.PoseTrainer):
    """Keypoints."""


class OBBTrainer(AlignedWeights, yolo.obb.OBBTrainer):
    """Rotated boxes."""


class ClassificationTrainer(AlignedWeights, yolo.classify.ClassificationTrainer):
    """Image classification."""


TRAINERS = {
    "detect": DetectionTrainer,
    "segment": SegmentationTrainer,
    "pose": PoseTrainer,
    "obb": OBBTrainer,
    "classify": ClassificationTrainer,
}
