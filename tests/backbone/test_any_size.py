"""200 image sizes, odd and oblong, through a small BoTNet: each equal to the equation in float64."""

import copy
import math
import random

import numpy as np
import pytest
import torch

import botvision
from botvision.attention import MHSA2d

LONGEST = [1400] * 8 + [640] * 192  # most maps are small: the equation takes time by the fourth power of a side
SIZES = [(random.Random(n).randint(32, most), random.Random(~n).randint(32, most)) for n, most in enumerate(LONGEST)]


def small_botnet(**options):
    """A whole BoTNet of few channels, whose attention has a voice from the first step."""
    model = botvision.create_model("botnet14", channels=(4, 8, 16, 8), stem_width=4, num_classes=0, **options)
    for module in model.modules():
        if isinstance(module, MHSA2d):
            for p in module.parameters():
                torch.nn.init.normal_(p, std=0.5)
    torch.nn.init.ones_(model.layer4[0].bn3.weight)
    return model.eval()


def resampled(table, side, extend):
    """Rows for offsets 1−side … side−1, each found on its own: PAPER section 1 within the table, `extend` beyond."""
    reach = table.shape[0] // 2
    rows = []
    for offset in range(1 - side, side):
        if extend == "clamp" or side - 1 <= reach:
            rows.append(table[max(-reach, min(reach, offset)) + reach])
            continue
        place = offset * reach / (side - 1) + reach
        low = min(math.floor(place), 2 * reach - 1)
        rows.append(table[low] * (low + 1 - place) + table[low + 1] * (place - low))
    return torch.stack(rows)


def equation(layer, x):
    """The layer row of queries by row of queries, from its parameters alone: no backend, no thin tensors."""
    batch, dim, height, width = x.shape
    d = dim // layer.num_heads
    q, k, v = torch.einsum("oc,bchw->bohw", layer.qkv.weight[:, :, 0, 0], x).split(dim, 1)
    q, k, v = (t.unflatten(1, (layer.num_heads, d)) for t in (q * d**-0.5, k, v))  # B M D H W
    table_h, table_w = (resampled(t[0], s, layer.extend) for t, s in ((layer.rel_h, height), (layer.rel_w, width)))
    # R_w[x_key − x_query] for each pair of columns, R_h[y_key − y] for each row of keys
    columns = torch.stack([table_w[width - 1 - x : 2 * width - 1 - x] for x in range(width)])  # W W D
    out = torch.empty(batch, layer.num_heads, d, height, width, dtype=x.dtype)
    for y in range(height):
        row = q[..., y, :].transpose(-1, -2)  # B M W D
        content = torch.einsum("bmqd,bmdhw->bmqhw", row, k)
        across = torch.einsum("bmqd,qwd->bmqw", row, columns)
        down = row @ table_h[height - 1 - y : 2 * height - 1 - y].T
        weights = (content + across[..., None, :] + down[..., None]).flatten(-2).softmax(-1)
        out[..., y, :] = torch.einsum("bmqn,bmdn->bmdq", weights, v.flatten(-2))
    return out.flatten(1, 2)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {extend: small_botnet(extend=extend, num_heads=1) for extend in ("stretch", "clamp")}


@pytest.mark.parametrize(("number", "size"), list(enumerate(SIZES)), ids=[f"{h}x{w}" for h, w in SIZES])
def test_every_size_equals_the_equation(models, number, size):
    model = models["stretch" if number % 2 else "clamp"]
    layer = model.layer4[0].mhsa
    seen = {}
    hook = layer.register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))
    with torch.inference_mode():
        features = model(torch.randn(1, 3, *size))
        hook.remove()
        assert seen["x"].shape[2:] == tuple(math.ceil(side / 16) for side in size)
        assert features.isfinite().all()
        layer, x = copy.deepcopy(layer).double(), seen["x"].double()
        expected = equation(layer, x)
        assert (layer(x) - expected).abs().max() <= 1e-10
        assert (seen["out"] - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_numpys_numbers_are_sizes():
    model = botvision.create_model("botnet14", img_size=np.int64(64), channels=(8, 16, 32, 64))
    model.set_input_size(np.int32(96))
    assert botvision.MHSA2d(8, 2, max_size=(np.int64(3), 4)).max_size() == (3, 4)
    for wrong in (64.0, "64", (64.0, 64)):
        with pytest.raises(ValueError, match="must be a side"):
            botvision.create_model("botnet14", img_size=wrong)
    with pytest.raises(ValueError, match="dim=0 must be at least 1"):
        botvision.MHSA2d(0)
