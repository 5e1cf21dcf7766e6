"""An exported classifier in the eager one's place: tensors in and out, torch in the process."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from botvision.deploy.graph import open_graph


class ExportedClassifier(nn.Module):
    """A file of `botvision export` that is called as a model is; it computes on the CPU, by its own engine."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            FileNotFoundError, ValueError: as `open_graph`; a file of another task.
        """
        super().__init__()
        self.graph = open_graph(path)
        self.graph.check_task("classify")
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # where images are brought to
        about = self.graph.about
        self.mean, self.std = (torch.tensor(about[name])[:, None, None] for name in ("mean", "std"))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised → (B, K) logits; a graph that takes images gets their bytes back."""
        values = images.cpu()
        if self.graph.about["input"] == "image":
            values = ((values * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(self.graph.run({"images": np.ascontiguousarray(values.numpy())})["logits"])
