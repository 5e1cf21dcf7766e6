"""The detector as one graph: the same weights, without a branch on a tensor or a list of images."""

# B batch, L levels, A anchors a cell, T candidates a level, R proposals, K classes, N objects found, G groups

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from botvision.maskrcnn.heads import (
    Float32Anchors,
    MaskRoIHeads,
    ProposalNetwork,
    StridedRoIAlign,
    at_least_float32,
)
from botvision.maskrcnn.model import MaskRCNN

NONE = -1.0  # score of a row that holds nothing: it sorts last


@torch.library.custom_op("botvision::keep_best", mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression within each group of each image.

    One operator, since a graph can neither loop over a batch nor hold groups apart exactly by shifting their boxes.

    Args:
        boxes: (B, G, N, 4).
        scores: (B, G, N); a row with one below 0 holds nothing.
        overlap: boxes that overlap a better one of their group by more are not kept.

    Returns:
        (B, G, N), whether each is kept.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for own_boxes, own_scores, own_kept in zip(boxes, scores, kept, strict=True):
        group, place = torch.where(own_scores >= 0)
        chosen = batched_nms(own_boxes[group, place], own_scores[group, place], group, overlap)
        own_kept[group[chosen], place[chosen]] = True
    return kept


@keep_best.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(scores, dtype=torch.bool)


class StaticDetector(nn.Module):
    """Normalised images → objects, by a trained `MaskRCNN`'s own modules.

    What the eager detector filters out stays here, with a score of -1, so that every size but that of what was found is
    known beforehand. Masks are computed for what was found alone.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model.eval()
        self.rpn = cast("ProposalNetwork", model.rpn)
        self.heads = cast("MaskRoIHeads", model.roi_heads)

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Find objects.

        Args:
            images: (B, 3, H, W) normalised, zero-padded to multiples of 64.
            sizes: (B, 2) int64, each image's height and width on it.

        Returns:
            Objects of all images, the best of each image first: boxes (N, 4) in pixels of the batch, labels (N,) from
            1, scores (N,), the number of the image in the batch (N,), and with a mask head masks (N, 28, 28).
        """
        maps, _ = self.model.pyramid(images)
        limits = sizes.flip(1).repeat(1, 2).to(torch.float32)  # B 4
        proposals, valid = self.proposals(maps, limits)
        boxes, labels, scores = self.classified(maps, proposals, valid, limits)
        image, place = torch.where(scores > NONE)
        parts = {"boxes": boxes, "labels": labels, "scores": scores}
        found = {name: part[image, place] for name, part in parts.items()} | {"image": image}
        return found | ({"masks": self.masks(maps, found)} if self.heads.has_mask() else {})

    def proposals(self, maps: dict[str, Tensor], limits: Tensor) -> tuple[Tensor, Tensor]:
        """Pyramid → proposals (B, R, 4) and whether each is one (B, R)."""
        rpn, levels = self.rpn, list(maps.values())
        objectness, deltas = rpn.head(levels)
        anchors = cast("Float32Anchors", rpn.anchor_generator)
        anchors.set_cell_anchors(torch.float32, limits.device)
        most = rpn.pre_nms_top_n()
        boxes, scores = [], []
        for level, stride, cells, ob, delta in zip(
            levels, self.model.pyramid.all_strides, anchors.cell_anchors, objectness, deltas, strict=True
        ):
            ob = at_least_float32(ob).permute(0, 2, 3, 1).flatten(1)  # B h·w·A
            delta = at_least_float32(delta).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # B h·w·A 4
            ob, places = best(ob, most)
            on_map = grid(level, stride)[:, None] + cells  # h·w A 4
            places = places.clamp(max=delta.shape[1] - 1)  # of those that fill up, whose score is none
            own = on_map.flatten(0, 1)[places.flatten()]  # B·T 4
            picked = delta.gather(1, places[..., None].expand(-1, -1, 4)).flatten(0, 1)
            decoded = rpn.box_coder.decode_single(picked, own).unflatten(0, (-1, most))
            decoded = clipped(decoded, limits)
            score = sigmoid(ob)
            valid = (ob > -torch.inf) & is_large(decoded, rpn.min_size) & (score >= rpn.score_thresh)
            boxes.append(decoded)
            scores.append(torch.where(valid, score, NONE))
        every, score = torch.stack(boxes, 1), torch.stack(scores, 1)  # B L T 4, B L T
        kept = keep_best(every, score, rpn.nms_thresh)
        score, order = torch.where(kept, score, NONE).flatten(1).sort(dim=1, descending=True, stable=True)
        score, order = score[:, : rpn.post_nms_top_n()], order[:, : rpn.post_nms_top_n()]
        return every.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4)), score > NONE

    def classified(
        self, maps: dict[str, Tensor], proposals: Tensor, valid: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals → boxes (B, D, 4), labels (B, D) and scores (B, D), the best first; -1 where there is none."""
        heads, count = self.heads, proposals.shape[1]
        boxes = proposals.flatten(0, 1)  # B·R 4
        number = torch.arange(proposals.shape[0], device=boxes.device)[:, None].expand(-1, count).flatten()
        pooled = cast("StridedRoIAlign", heads.box_roi_pool).pooled(maps, boxes, number)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        scores = at_least_float32(logits).softmax(-1).unflatten(0, (-1, count))[..., 1:]  # B R K
        decoded = heads.box_coder.decode(at_least_float32(deltas), [boxes]).unflatten(0, (-1, count))[:, :, 1:]
        decoded = clipped(decoded, limits[:, None])  # B R K 4
        is_object = valid[..., None] & (scores > heads.score_thresh) & is_large(decoded, 1e-2)
        scores = torch.where(is_object, scores, NONE)
        kept = keep_best(decoded.transpose(1, 2), scores.transpose(1, 2), heads.nms_thresh).transpose(1, 2)
        scores, order = torch.where(kept, scores, NONE).flatten(1).sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, : heads.detections_per_img], order[:, : heads.detections_per_img]
        decoded = decoded.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4))
        return decoded, order % self.model.num_classes + 1, scores

    def masks(self, maps: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
        """Probabilities (N, 28, 28) of each object's mask over its box."""
        heads: Any = self.heads
        # one more, which is taken off again: no convolution is asked for an empty batch, which engines differ on
        boxes = nn.functional.pad(found["boxes"], (0, 0, 0, 1))
        image, labels = (nn.functional.pad(found[name], (0, 1)) for name in ("image", "labels"))
        pooled = cast("StridedRoIAlign", heads.mask_roi_pool).pooled(maps, boxes, image)
        logits = at_least_float32(heads.mask_predictor(heads.mask_head(pooled)))  # N+1 K+1 28 28
        own = labels[:, None, None, None].expand(-1, -1, *logits.shape[2:])
        return logits.gather(1, own)[:-1, 0].sigmoid()


def best(objectness: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `most` highest of each image, and their places; where there are fewer, -inf fills up."""
    count = objectness.shape[1]
    if isinstance(count, int):
        taken = min(count, most)
        top, places = objectness.topk(taken, 1)
        return (
            (top, places)
            if taken == most
            else (
                nn.functional.pad(top, (0, most - taken), value=-torch.inf),
                nn.functional.pad(places, (0, most - taken)),
            )
        )
    filler = objectness.new_full((1, most), -torch.inf).expand(objectness.shape[0], -1)
    top, places = torch.cat([objectness, filler], 1).topk(most, 1)
    return top, places


def sigmoid(logits: Tensor) -> Tensor:
    """Shares, written out: onnxruntime's own is 0 below -18, and elsewhere not monotone in the last bits.

    Proposals that are all but sure either way would be lost, or ranked by chance.
    """
    return 1 / (1 + (-logits).exp())


def grid(level: Tensor, stride: int) -> Tensor:
    """Shifts (h·w, 4) of the anchors of each cell of a map, in pixels."""
    down = torch.arange(level.shape[-2], device=level.device)[:, None].expand(-1, level.shape[-1]) * stride
    across = torch.arange(level.shape[-1], device=level.device)[None].expand(level.shape[-2], -1) * stride
    return torch.stack([across, down, across, down], -1).flatten(0, 1).to(torch.float32)


def clipped(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes (B, …, 4) inside their image, whose x1 y1 x2 y2 reach to `limits` (B, 4)."""
    return torch.minimum(boxes.clamp(min=0), limits[:, None])


def is_large(boxes: Tensor, side: float) -> Tensor:
    """Whether both sides of boxes (…, 4) are at least `side`."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(-1)


class ImageDetector(nn.Module):
    """Images as they are, all of one size → objects in their pixels: resized, normalised and padded in the graph."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.detector = StaticDetector(model)
        self.resize = model.resize

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, H, W, 3) uint8, RGB → objects with boxes in the images' pixels."""
        height, width = images.shape[1], images.shape[2]
        size = self.resize.rule.fit(height, width)
        values = images.permute(0, 3, 1, 2).contiguous().to(torch.float32) * (1 / 255)
        values = nn.functional.interpolate(values, size, mode="bilinear", antialias=True)
        values = (values - self.resize.mean) / self.resize.std
        canvas = self.resize.canvas(size)
        batch = nn.functional.pad(values, (0, canvas[1] - size[1], 0, canvas[0] - size[0]))
        own = torch.stack([torch.full_like(images[:, 0, 0, 0], side, dtype=torch.int64) for side in size], -1)
        found = self.detector(batch, own)
        ratio = torch.stack(
            [torch.tensor(a, dtype=torch.float64) / b for a, b in ((width, size[1]), (height, size[0]))]
        )
        return found | {"boxes": found["boxes"] * ratio.repeat(2).to(torch.float32)}
