"""An exported detector in the eager one's place: tensors in and out, torch in the process."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from botvision.deploy.graph import Graph, open_graph
from botvision.deploy.predictor import alike, batches
from botvision.maskrcnn.model import Output
from botvision.maskrcnn.resize import ImageSize, Resize, move_boxes


class ExportedDetector(nn.Module):
    """A file of `botvision export` that is called as `MaskRCNN` is; it computes on the CPU, by its own engine."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            FileNotFoundError, ValueError: as `open_graph`; a file of another task.
        """
        super().__init__()
        self.graph: Graph = open_graph(path)
        self.graph.check_task("maskrcnn")
        self.categories: list[list[Any]] = self.graph.about["categories"]
        self.masks = bool(self.graph.about["masks"])
        self.resize = Resize(ImageSize(*self.graph.about["rule"]))
        self.eval()

    def forward(self, images: list[Tensor]) -> Output:
        """Images (3, H, W) of uint8, or floats in 0 … 1, which are rounded to it; those of one size go in together,
        as many as memory holds.
        """
        found: dict[int, dict[str, Tensor]] = {}
        for (_, height, width), numbers in alike(tuple(image.shape) for image in images):
            for some in batches(numbers, pixels=height * width, most=len(numbers)):
                found |= dict(zip(some, self.of_one_size([images[number] for number in some]), strict=True))
        return Output([found[number].copy() for number in range(len(images))], {})

    def of_one_size(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of each image."""
        is_image = self.graph.about["input"] == "image"
        if is_image:
            stacked = torch.stack([as_bytes(image) for image in images]).permute(0, 2, 3, 1)
            rows = self.graph.run({"images": np.ascontiguousarray(stacked.cpu().numpy())})
        else:
            batch = self.resize([image.cpu() for image in images])
            sizes = np.array(batch.image_sizes, np.int64)
            rows = self.graph.run({"images": batch.tensors.numpy(), "sizes": sizes})
        tensors = {name: torch.from_numpy(array) for name, array in rows.items()}
        detections = []
        for number, image in enumerate(images):
            mine = tensors["image"] == number
            own = {name: tensors[name][mine] for name in ("boxes", "labels", "scores")}
            if self.masks:
                own["mask_probs"] = tensors["masks"][mine]
            if not is_image:
                size = (image.shape[-2], image.shape[-1])
                own["boxes"] = move_boxes(own["boxes"], source=batch.image_sizes[number], target=size)
            detections.append(own)
        return detections


def as_bytes(image: Tensor) -> Tensor:
    """An image of uint8, or of floats in 0 … 1 rounded to it."""
    return image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
