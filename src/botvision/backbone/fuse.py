"""Fuse BatchNorm for inference: into the convolutions, and after attention into its values."""

import copy
from itertools import pairwise
from typing import cast

import torch
from timm.models import FeatureDictNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from botvision.backbone.blocks import BoTBlock

# Modules whose children run in their order
IN_ORDER = (ResNet, FeatureDictNet, BasicBlock, Bottleneck, BoTBlock, nn.Sequential)


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a model for inference in which the BatchNorms of a ResNet's stages are folded into their neighbours.

    A BatchNorm directly after a convolution becomes part of it. The one after attention becomes part of the value
    projection: a softmax's rows sum to 1, so scaling and shifting every value scales and shifts the output, and the
    average pool between them keeps both. Outputs are equal to rounding. A convolution that is pruned or parametrised,
    whose weight is made of others anew, keeps its BatchNorm.

    Args:
        model: a BoTNet or ResNet, or anything around one, in eval.

    Returns:
        The copy; it has biases, cannot be trained as the original was, nor saved by `save_pretrained`.

    Raises:
        ValueError: a model in training mode, whose BatchNorms follow the batch.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("fuse needs the statistics that BatchNorm uses in eval; call model.eval() first")
    for module in model.modules():  # what pruning made in the last forward, and makes anew in the next
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    fused = copy.deepcopy(model)
    for module in list(fused.modules()):
        if isinstance(module, BoTBlock) and is_affine(module.bn2) and is_plain(module.mhsa.qkv):
            fold_into_values(module)
        if isinstance(module, IN_ORDER):
            fold_into_convolutions(module)
    vars(fused)["is_fused"] = True  # so that nobody saves it as what it was
    return fused


def is_affine(norm: nn.Module) -> bool:
    """Whether a norm is a BatchNorm that in eval multiplies and adds what it has learnt, and nothing of the batch."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats  # subclasses do more


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether its weight is a parameter of its own, not made of others anew, as pruned and parametrised ones are."""
    return "weight" in conv._parameters and "bias" in conv._parameters


def fold_into_convolutions(module: nn.Module) -> None:
    """Each BatchNorm that directly follows a convolution."""
    children = [(name, child) for name, child in module._modules.items() if child is not None]  # repeats too
    for (name, conv), (norm_name, norm) in pairwise(children):
        if type(conv) is nn.Conv2d and is_plain(conv) and is_affine(norm):
            setattr(module, name, fuse_conv_bn_eval(conv, cast("nn.BatchNorm2d", norm)))
            setattr(module, norm_name, nn.Identity())


@torch.no_grad()
def fold_into_values(block: BoTBlock) -> None:
    """The BatchNorm behind the attention and its pool."""
    norm, qkv = cast("nn.BatchNorm2d", block.bn2), block.mhsa.qkv
    dim = block.mhsa.dim
    scale = norm.weight / torch.sqrt(cast("Tensor", norm.running_var) + norm.eps)
    shift = norm.bias - cast("Tensor", norm.running_mean) * scale
    if qkv.bias is None:
        qkv.bias = nn.Parameter(qkv.weight.new_zeros(qkv.out_channels))
    qkv.weight[-dim:] *= scale[:, None, None, None]  # the value rows are the last
    qkv.bias[-dim:] = qkv.bias[-dim:] * scale + shift
    block.bn2 = nn.Identity()
