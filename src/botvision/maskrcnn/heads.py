"""RPN, RoIAlign, box and mask heads: torchvision's, mended; geometry in float32."""

# B batch, G objects of an image, P proposals, K classes

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import roi_align
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
from torchvision.ops.poolers import LevelMapper

from botvision.maskrcnn.targets import Targets


def at_least_float32(x: Tensor) -> Tensor:
    """A head's output as geometry takes it: 16 bits become float32, wider ones stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(like: Tensor) -> torch.autocast:
    """Boxes are computed as they come: bfloat16 holds a coordinate above 512 px to 4 px, float16 to half a pixel."""
    return torch.autocast(like.device.type, enabled=False)


class Float32Anchors(AnchorGenerator):
    """torchvision's anchors in float32; its own take the dtype that autocast makes of the feature maps."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Called before each use: float32, not the maps' `dtype`."""
        super().set_cell_anchors(torch.float32, device)


class PooledLevels(ExtraFPNBlock):
    """Every second cell of the last map, again and again, down to stride 64: coarse maps for large proposals.

    A pyramid that ends at stride 32 gets one map more, "pool" (FPN, section 4.1), one that ends at 16 gets two.
    """

    def __init__(self, last_stride: int) -> None:
        """`last_stride` of the maps that it is given, in pixels."""
        super().__init__()
        self.count = max(1, round(math.log2(64 / last_stride)))

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Maps and names, with those that are added."""
        names = [*names, *("pool" if not number else f"pool{number + 1}" for number in range(self.count))]
        for _ in range(self.count):
            results = [*results, F.max_pool2d(results[-1], kernel_size=1, stride=2)]
        return results, names


class StridedRoIAlign(nn.Module):
    """RoIAlign over a feature pyramid whose strides are given, not inferred (FPN, equation 1).

    torchvision's `MultiScaleRoIAlign` infers them from the first image that it ever sees and keeps them: a wide first
    image in a padded batch makes every later feature come from the wrong place, without an error
    (pytorch/vision#3747). It also has no `aligned`, and without it features lie half a cell off: 2 pixels at stride 4.

    Args:
        strides: of the maps "0", "1", …, in pixels.
        output_size: side of the pooled square, in bins.
        sampling: points a bin and axis.
        aligned: take pixel centres for centres (detectron2), or shift by half a cell (torchvision, the TPU code).
        finest: number of the finest map that is read, however small the box.
    """

    def __init__(
        self, strides: Sequence[int], *, output_size: int, sampling: int, aligned: bool, finest: int = 0
    ) -> None:
        super().__init__()
        self.strides = list(strides)
        self.output_size = (output_size, output_size)  # torchvision's mask head reads it
        self.sampling = sampling
        self.aligned = aligned
        self.finest = finest
        self.level_of = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object = None) -> Tensor:
        """Maps "0", "1", … (B, C, h, w) and boxes an image (P_b, 4) in the batch's pixels → (P, C, side, side)."""
        image = torch.cat([b.new_full((len(b),), number, dtype=torch.int64) for number, b in enumerate(boxes)])
        return self.pooled(features, torch.cat(boxes), image)

    def pooled(self, features: dict[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """The same of boxes (P, 4), each with the number (P,) of its image."""
        rois = torch.cat([image[:, None].to(at_least_float32(boxes).dtype), at_least_float32(boxes)], 1)  # P 5
        level = self.level_of([boxes]).clamp(min=self.finest)  # P
        pooled = features["0"].new_zeros(rois.shape[0], features["0"].shape[1], *self.output_size)
        for number, stride in enumerate(self.strides):
            mine = torch.where(level == number)[0]
            values = at_least_float32(features[str(number)])  # as the boxes: a place is not rounded to the map's dtype
            own = roi_align(
                values, rois[mine].to(values.dtype), self.output_size, 1 / stride, self.sampling, self.aligned
            )
            pooled = pooled.index_put((mine,), own.to(pooled.dtype))
        return pooled


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposals, with losses whenever targets are given, in train and in eval mode alike."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Batch and pyramid → proposals an image (P, 4) in the batch's pixels, and losses (with targets)."""
        maps = list(features.values())
        heads = self.head(maps)
        with no_autocast(maps[0]):
            objectness, deltas = ([at_least_float32(level) for level in levels] for levels in heads)
            anchors = self.anchor_generator(images, maps)
            per_level = [math.prod(level.shape[1:]) for level in objectness]
            objectness, deltas = concat_box_prediction_layers(objectness, deltas)
            decoded = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
            proposals, _ = self.filter_proposals(decoded, objectness, images.image_sizes, per_level)
            if targets is None:
                return proposals, {}
            labels, matched = self.assign_targets_to_anchors(anchors, targets)
            wanted = self.box_coder.encode(matched, anchors)
            loss_objectness, loss_rpn_box_reg = self.compute_loss(objectness, deltas, labels, wanted)
            return proposals, {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_rpn_box_reg}


class CentreClassifier(nn.Module):
    """Names objects from the backbone's last map alone, by one linear layer, at their centres; for training alone.

    The detector's own classes come through pyramid, RoIAlign and fully connected layers, so what the backbone is to
    gather from far away gets its gradient late (deep supervision: Lee et al. 2015, arXiv 1409.5185).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        """`channels` of the map; `num_classes` without background."""
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, last: Tensor, targets: Targets, *, size: tuple[int, int]) -> Tensor:
        """Mean cross-entropy over all objects, a scalar; 0 where there are none.

        Args:
            last: map (B, C, h, w) of a batch.
            targets: of B images, with boxes (G, 4) in the batch's pixels and labels (G,) from 1.
            size: (H, W) of the batch, px.
        """
        read = [self.read(m, t["boxes"], size=size) for m, t in zip(last, targets, strict=True)]
        logits = at_least_float32(self.linear(torch.cat(read)))  # G K
        labels = torch.cat([t["labels"] for t in targets]) - 1  # G
        # a sum, so that a batch without objects gives 0 and still touches the layer: distributed training stays in step
        return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))

    def read(self, last: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
        """A map (C, h, w) at the centres of boxes (G, 4), between the nearest cells' centres → (G, C)."""
        extent = boxes.new_tensor([size[1], size[0]])
        centres = (boxes[:, :2] + boxes[:, 2:]) / extent - 1  # G 2, x and y in -1 … 1
        values = at_least_float32(last)[None]
        there = centres[None, None].to(values.dtype)
        return F.grid_sample(values, there, padding_mode="border", align_corners=False)[0, :, 0].T


class MaskRoIHeads(RoIHeads):
    """Box and mask heads that give losses whenever targets are given, in train and in eval mode alike.

    Masks are trained on 112×112 crops of each object's own box (the paper's detection code), 12 kB an object where a
    dense mask of a 1024² image is 1 MB; detections carry 28×28 probabilities in their box's frame.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Pyramid and proposals → detections (eval mode) and losses (with targets)."""
        losses = {} if targets is None else self.losses(features, proposals, image_shapes, targets)
        detections = [] if self.training else self.detect(features, proposals, image_shapes)
        return detections, losses

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Class and box losses on sampled proposals, and with a mask head its loss on those that cover an object."""
        with no_autocast(proposals[0]):
            proposals, matched, labels, box_targets = self.select_training_samples(list(proposals), targets)
        found = self.classes_and_deltas(features, proposals, image_shapes)
        with no_autocast(proposals[0]):
            loss_classifier, loss_box_reg = fastrcnn_loss(*found, labels, box_targets)
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        if self.has_mask():
            losses["loss_mask"] = self.mask_loss(features, proposals, image_shapes, (matched, labels), targets)
        return losses

    def mask_loss(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        assigned: tuple[list[Tensor], list[Tensor]],
        targets: Targets,
    ) -> Tensor:
        """Binary cross-entropy of the masks of proposals that cover an object; `assigned` objects and labels of all."""
        matched, labels = assigned
        covering = [label > 0 for label in labels]
        boxes = [p[c] for p, c in zip(proposals, covering, strict=True)]
        objects = [m[c] for m, c in zip(matched, covering, strict=True)]
        classes = torch.cat([label[c] for label, c in zip(labels, covering, strict=True)])
        mask_logits = self.mask_logits(features, boxes, image_shapes)  # P K+1 28 28
        wanted = torch.cat(
            [
                crop_masks(t["masks"], t["boxes"], boxes=b, objects=o, side=mask_logits.shape[-1])
                for t, b, o in zip(targets, boxes, objects, strict=True)
            ]
        )
        chosen = mask_logits[torch.arange(len(classes), device=classes.device), classes]  # P 28 28
        # a batch without objects still touches the mask head, so distributed training stays in step
        return F.binary_cross_entropy_with_logits(chosen, wanted) if len(classes) else mask_logits.sum() * 0

    def detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Per image: boxes (N, 4), labels (N,), scores (N,), and with a mask head mask_probs (N, 28, 28)."""
        found = self.classes_and_deltas(features, proposals, image_shapes)
        with no_autocast(proposals[0]):
            boxes, scores, labels = self.postprocess_detections(*found, proposals, image_shapes)
        detections = [{"boxes": b, "labels": n, "scores": s} for b, n, s in zip(boxes, labels, scores, strict=True)]
        if self.has_mask():
            mask_probs = maskrcnn_inference(self.mask_logits(features, boxes, image_shapes), labels)
            for found_here, probabilities in zip(detections, mask_probs, strict=True):
                found_here["mask_probs"] = probabilities.squeeze(1)
        return detections

    def classes_and_deltas(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Proposals → class logits (P, K+1) and box deltas (P, 4·(K+1)), in float32 at least."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        return at_least_float32(logits), at_least_float32(deltas)

    def mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Boxes → mask logits (P, K+1, 28, 28), in float32 at least."""
        return at_least_float32(self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes))))


def crop_masks(crops: Tensor, own_boxes: Tensor, *, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """The part of each object's mask that lies in a proposal, as mask targets.

    Args:
        crops: (G, 112, 112), each object's mask over its own box.
        own_boxes: (G, 4), those boxes.
        boxes: (P, 4) proposals.
        objects: (P,) which object each proposal covers.
        side: of the target.

    Returns:
        (P, side, side) in 0 … 1; 0 outside the object's box.
    """
    if not len(boxes):
        return boxes.new_zeros(0, side, side)
    frame = own_boxes[objects].to(boxes.dtype)
    corner, extent = frame[:, :2], (frame[:, 2:] - frame[:, :2]).clamp(min=1e-3)
    inside = ((boxes.unflatten(1, (2, 2)) - corner[:, None]) / extent[:, None]).flatten(1) * crops.shape[-1]
    rois = torch.cat([objects[:, None].to(boxes.dtype), inside], 1)
    return roi_align(crops[:, None].to(boxes.dtype), rois, side, aligned=True).squeeze(1)
