"""Exported models on onnxruntime or OpenVINO: numpy and Pillow, no torch."""

from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.deploy.classifier import Classifier
    from botvision.deploy.graph import Graph, open_graph
    from botvision.deploy.predictor import Objects, Predictor

__all__ = ["Classifier", "Graph", "Objects", "Predictor", "open_graph"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "Classifier": f"{__name__}.classifier",
        **dict.fromkeys(("Graph", "open_graph"), f"{__name__}.graph"),
        **dict.fromkeys(("Objects", "Predictor"), f"{__name__}.predictor"),
    },
)
