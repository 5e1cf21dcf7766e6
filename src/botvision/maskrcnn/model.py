"""Mask R-CNN with FPN around any timm backbone."""

# B batch, S side of the padded batch, K classes

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork

from botvision.backbone import VARIANTS, create_model
from botvision.backbone.weights import other_normalisation
from botvision.maskrcnn.heads import (
    CentreClassifier,
    Float32Anchors,
    MaskRoIHeads,
    PooledLevels,
    ProposalNetwork,
    StridedRoIAlign,
)
from botvision.maskrcnn.resize import MEAN, STD, Resize, image_size, move_boxes, padded
from botvision.maskrcnn.targets import Targets, check_targets


class Preset(NamedTuple):
    """Sizes of everything behind the backbone.

    Attributes:
        width: channels of the pyramid.
        rpn_convs: 3×3 convolutions of the proposal head.
        box_convs: 3×3 convolutions of the box head; 0 makes it two fully connected layers.
        box_width: width of the box head's fully connected layers.
        mask_convs, mask_width: 3×3 convolutions of the mask head.
        heads_norm: BatchNorm in the box and mask heads' convolutions; the pyramid always has it.
        anchor_scale: side of a level's anchors, in strides.
        proposals: (training, test) kept after non-maximum suppression.
        objects: that are found in an image at most.
        samples: (anchors, regions) an image that the losses see.
        sampling, aligned: see `StridedRoIAlign`.
        finest: number of the finest map that the box head reads, 0 at stride 4; the mask head reads all.
    """

    width: int = 256
    rpn_convs: int = 1
    box_convs: int = 0
    box_width: int = 1024
    mask_convs: int = 4
    mask_width: int = 256
    heads_norm: bool = False
    anchor_scale: int = 8
    proposals: tuple[int, int] = (1000, 1000)
    objects: int = 100
    samples: tuple[int, int] = (256, 512)
    sampling: int = 2
    aligned: bool = False
    finest: int = 0


PRESETS: dict[str, Preset] = {
    "paper": Preset(),  # sizes of the TPU detection code that the paper cites; departures: docs/maskrcnn.md
    "torchvision_v2": Preset(rpn_convs=2, box_convs=4, heads_norm=True, proposals=(2000, 1000)),
    "tiny": Preset(
        width=64, box_width=256, mask_convs=2, mask_width=64, heads_norm=True, anchor_scale=4,
        proposals=(200, 100), samples=(64, 64), sampling=1, aligned=True,
    ),
    "nano": Preset(  # half of tiny's width and regions, classes read at stride 16: for many small runs on a CPU
        width=32, box_width=128, mask_convs=1, mask_width=32, heads_norm=True, anchor_scale=4,
        proposals=(100, 50), samples=(64, 32), sampling=1, aligned=True, finest=2,
    ),
}  # fmt: skip


class Output(NamedTuple):
    """What the detector gives.

    Attributes:
        detections: in eval mode, per image boxes (N, 4) xyxy in the image's own pixels, labels (N,) from 1,
            scores (N,), and with a mask head mask_probs (N, 28, 28) over each box.
        losses: with targets, in either mode; `loss_auxiliary` in training mode alone.
    """

    detections: list[dict[str, Tensor]]
    losses: dict[str, Tensor]


class MaskRCNN(nn.Module):
    """Mask R-CNN with FPN of torchvision's parts (He et al. 2017; Lin et al. 2017); without masks Faster R-CNN."""

    def __init__(
        self,
        *,
        resize: Resize,
        pyramid: "Pyramid",
        rpn: nn.Module,
        roi_heads: nn.Module,
        num_classes: int,
        auxiliary: CentreClassifier | None = None,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.pyramid: Pyramid = pyramid
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes
        self.auxiliary = auxiliary

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> Output:
        """Images (3, H, W), and targets of boxes (G, 4), labels (G,) from 1, masks (G, 112, 112) over each box.

        A detector without a mask head needs no masks.

        Boxes are computed in float32 whatever autocast makes of the maps.

        Raises:
            ValueError: training mode without targets, targets that are not as said, or an image that is none.
        """
        if self.training and targets is None:
            raise ValueError("training needs targets; give them, or call model.eval() for detections")
        batch = self.resize(images)
        original = [(p.shape[-2], p.shape[-1]) for p in images]
        if targets is not None:
            check_targets(targets, sizes=original, classes=self.num_classes, masks=self.masks)
        dtype = next(self.pyramid.parameters()).dtype  # of weights that were cast, as by model.bfloat16()
        features, last = self.pyramid(batch.tensors.to(dtype))
        if targets is not None:
            targets = [
                {**t, "boxes": move_boxes(t["boxes"], source=o, target=s)}
                for t, o, s in zip(targets, original, batch.image_sizes, strict=True)
            ]
        proposals, losses = self.rpn(batch, features, targets)
        detections, more = self.roi_heads(features, proposals, batch.image_sizes, targets)
        if self.training and targets is not None and self.auxiliary is not None:
            more["loss_auxiliary"] = self.auxiliary(last, targets, size=tuple(batch.tensors.shape[-2:]))
        for found, o, s in zip(detections, original, batch.image_sizes, strict=False):
            found["boxes"] = move_boxes(found["boxes"], source=s, target=o)
        return Output(detections, {**losses, **more})

    @property
    def masks(self) -> bool:
        """Whether it has a mask head."""
        return cast("MaskRoIHeads", self.roi_heads).has_mask()

    @property
    def max_objects(self) -> int:
        """How many objects it finds in an image at most."""
        proposals = cast("ProposalNetwork", self.rpn)._post_nms_top_n["testing"]
        return min(cast("MaskRoIHeads", self.roi_heads).detections_per_img, proposals)


class Pyramid(nn.Module):
    """A timm backbone's maps from stride 4 on, and the feature pyramid over them, one map a stride.

    Of two maps of one stride (c4 and c5 of the S1 models) the pyramid's top-down sum makes one: the earlier one's place
    bears both; the later one's own is read by the pooled levels alone (docs/decisions/0020).
    """

    def __init__(self, body: nn.Module, *, width: int) -> None:
        super().__init__()
        info: Any = body.feature_info
        strides: list[int] = info.reduction()
        self.merged = [str(number) for number, stride in enumerate(strides) if stride in strides[:number]]
        self.strides = sorted(set(strides))
        self.channels: int = info.channels()[-1]
        self.body = body
        self.channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")  # Swin and its kin
        more = PooledLevels(self.strides[-1])
        self.fpn = FeaturePyramidNetwork(info.channels(), width, extra_blocks=more, norm_layer=nn.BatchNorm2d)
        self.all_strides = [*self.strides, *(self.strides[-1] * 2**number for number in range(1, more.count + 1))]

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, 3, S, S) → the pyramid, and the backbone's own last map.

        The pyramid's maps are "0", "1", … at the backbone's strides, which RoIAlign reads; "pool" and "pool2", down to
        stride 64, are for proposals alone.
        """
        maps = [m.permute(0, 3, 1, 2) if self.channels_last else m for m in self.body(x)]
        pyramid: dict[str, Tensor] = self.fpn({str(number): m for number, m in enumerate(maps)})
        return {name: m for name, m in pyramid.items() if name not in self.merged}, maps[-1]


def build_mask_rcnn(
    backbone: str,
    num_classes: int,
    *,
    preset: str = "paper",
    img_size: int | tuple[int, int] = 1024,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
    auxiliary: bool = False,
    masks: bool = True,
    max_objects: int | None = None,
) -> MaskRCNN:
    """A Mask R-CNN around any timm backbone that has maps at stride 4 and on.

    Args:
        backbone: a BoTNet or any timm name (`resnet50`, `resnest50d`, `tf_efficientnet_b4`, …).
        num_classes: classes to find; background is not counted.
        preset: a name of `PRESETS`: "paper", "torchvision_v2", "tiny" or "nano".
        img_size: px of a square that images are padded to, or (shortest, longest) for free sizes.
        pretrained: timm's weights for the backbone, downloaded.
        backbone_options: more for the backbone, e.g. {"position": "absolute"}.
        auxiliary: with a `CentreClassifier` on the backbone's last map, whose loss is added in training; detections do
            not use it.
        masks: with a mask head; without it is a Faster R-CNN (Ren et al. 2015), which finds boxes alone.
        max_objects: how many objects are found in an image at most, of twice as many proposals at least; None for 100,
            and 50 of "nano".

    Raises:
        ValueError: an unknown name or preset, a backbone without a pyramid, no class, no object, or too small an image
            size.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; use one of {', '.join(PRESETS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1; count the classes without background")
    if max_objects is not None and max_objects < 1:
        raise ValueError(f"max_objects={max_objects} must be at least 1; leave it out for the preset's")
    rule = image_size(img_size)
    options = dict(backbone_options or {})
    if backbone in VARIANTS:  # position tables with a row for every offset at this size
        options.setdefault("img_size", padded(rule.longest))
    if pretrained and (said := other_normalisation(backbone, MEAN, STD)):
        warnings.warn(said.removeprefix("warning: "), stacklevel=2)
    sizes = PRESETS[preset]
    if max_objects is not None:
        train, test = (max(count, 2 * max_objects) for count in sizes.proposals)
        sizes = sizes._replace(proposals=(train, test), objects=max_objects)
    body = create_body(backbone, pretrained=pretrained, options=options)
    pyramid = Pyramid(body, width=sizes.width)
    return MaskRCNN(
        resize=Resize(rule),
        pyramid=pyramid,
        rpn=build_rpn(sizes, pyramid.all_strides),
        roi_heads=build_roi_heads(sizes, pyramid.strides, num_classes=num_classes, masks=masks),
        num_classes=num_classes,
        auxiliary=CentreClassifier(pyramid.channels, num_classes) if auxiliary else None,
    )


def create_body(name: str, *, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """The backbone's last four maps; refuses one that is no pyramid from stride 4."""
    options = {"features_only": True, "out_indices": (-4, -3, -2, -1), **options}
    with torch.device("meta"):  # nothing is fetched for a backbone that is refused
        strides = cast("Any", create_model(name, **options)).feature_info.reduction()
    if strides[0] != 4 or list(strides) != sorted(strides) or strides[-1] < 16:
        raise ValueError(
            f"backbone {name!r} gives maps at strides {strides}; Mask R-CNN needs a pyramid 4, 8, 16, 16 or 32; "
            "use a ResNet-like backbone"
        )
    return create_model(name, pretrained=pretrained, **options)


def build_rpn(sizes: Preset, strides: Sequence[int]) -> ProposalNetwork:
    """Proposals: anchors of one scale and three aspects on each level."""
    sides = [(sizes.anchor_scale * stride,) for stride in strides]
    anchors = Float32Anchors(tuple(sides), ((0.5, 1.0, 2.0),) * len(sides))
    train, test = sizes.proposals
    return ProposalNetwork(
        anchors,
        RPNHead(sizes.width, 3, conv_depth=sizes.rpn_convs),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=sizes.samples[0],
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * train, "testing": test},
        post_nms_top_n={"training": train, "testing": test},
        nms_thresh=0.7,
    )


def build_roi_heads(sizes: Preset, strides: Sequence[int], *, num_classes: int, masks: bool) -> MaskRoIHeads:
    """Box head on 7×7 features, and with `masks` a mask head on 14×14 features to 28×28 masks."""
    norm = nn.BatchNorm2d if sizes.heads_norm else None
    pool = partial(StridedRoIAlign, strides, sampling=sizes.sampling, aligned=sizes.aligned)
    if sizes.box_convs:
        shape = (sizes.width, 7, 7)
        box_head = FastRCNNConvFCHead(shape, [sizes.width] * sizes.box_convs, [sizes.box_width], norm_layer=norm)
    else:
        box_head = TwoMLPHead(sizes.width * 7 * 7, sizes.box_width)
    mask_parts = {
        "mask_roi_pool": pool(output_size=14),
        "mask_head": MaskRCNNHeads(sizes.width, [sizes.mask_width] * sizes.mask_convs, 1, norm_layer=norm),
        "mask_predictor": MaskRCNNPredictor(sizes.mask_width, sizes.mask_width, num_classes + 1),
    }
    return MaskRoIHeads(
        box_roi_pool=pool(output_size=7, finest=sizes.finest),
        box_head=box_head,
        box_predictor=FastRCNNPredictor(sizes.box_width, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=sizes.samples[1],
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=sizes.objects,
        **(mask_parts if masks else {}),
    )
