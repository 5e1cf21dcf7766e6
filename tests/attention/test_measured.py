"""The table of measured GPUs: read once, by size, dtype and pass; a guess where it has no row; never in a graph."""

import pytest
import torch

from botvision.attention import BACKENDS, MHSA2d, dispatch, measured

TABLE = {
    "9.9": {
        "bfloat16": {
            "training": [
                {"up_to": 448, "backends": ["explicit", "tiled"]},
                {"up_to": None, "backends": ["tiled", "onehot", "explicit"]},
            ],
            "forward": [],
        }
    }
}


def looked_up(tokens=1024, *, name="9.9", dtype=torch.bfloat16, learning=True):
    return measured.looked_up(TABLE, name, dtype, learning=learning, tokens=tokens)


def test_the_first_row_that_goes_so_far():
    assert looked_up(448) == ("explicit", "tiled")
    assert looked_up(449) == looked_up(10**6) == ("tiled", "onehot", "explicit")


def test_nothing_where_nothing_was_measured():
    assert looked_up(learning=False) == looked_up(dtype=torch.float16) == looked_up(name="8.0") == ()


def test_the_shipped_table_names_backends_that_there_are():
    for dtypes in measured.table().values():
        for dtype, passes in dtypes.items():
            assert isinstance(getattr(torch, dtype), torch.dtype)
            assert set(passes) <= {"training", "forward"}
            for rows in passes.values():
                bounds = [row["up_to"] for row in rows]
                assert bounds[-1] is None
                assert bounds[:-1] == sorted(bounds[:-1])
                assert all(row["backends"] and set(row["backends"]) <= set(BACKENDS) for row in rows)


@pytest.mark.parametrize("device", ["cpu", "meta", "cuda"])
def test_without_a_gpu_there_is_no_architecture_and_no_file_is_read(device, monkeypatch):
    monkeypatch.setattr(measured, "table", lambda: pytest.fail("read"))
    assert measured.fastest(torch.device(device), torch.bfloat16, learning=True, tokens=9) == ()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Makes the device `meta` a GPU of the made-up table."""
    monkeypatch.setattr(measured, "architecture", lambda _: "9.9")
    monkeypatch.setattr(measured, "table", lambda: TABLE)


def inputs(side, dtype=torch.bfloat16, *, learning=True):
    sides = (16, 16, 16, side, side)
    return [torch.empty(1, 2, side**2, n, device="meta", dtype=dtype, requires_grad=learning) for n in sides]


def chosen(side, **how):
    q, _, *others = inputs(side, **how)
    return dispatch.choose(q, *others)


@pytest.mark.usefixtures("on_a_gpu")
def test_auto_takes_what_was_measured_and_can_run():
    assert chosen(21) == "explicit"
    assert chosen(32) == "onehot"  # tiled, the first, refuses a device that is no GPU
    assert dispatch.preference(inputs(32)[0]) == ("plain", "tiled", "onehot", "explicit", "onehot")


@pytest.mark.usefixtures("on_a_gpu")
def test_auto_leaves_out_a_backend_that_cannot_hold_the_values(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    q, _, v, rel_h, rel_w = inputs(32)
    assert dispatch.choose(q, v, rel_h, rel_w) == "tiled"
    assert dispatch.choose(q, v.repeat(1, 1, 1, 9), rel_h, rel_w) == "onehot"


def test_auto_guesses_where_nothing_was_measured(monkeypatch):
    assert [chosen(20), chosen(21)] == ["explicit", "onehot"]
    monkeypatch.setattr(measured, "architecture", lambda _: "9.9")
    monkeypatch.setattr(measured, "table", lambda: TABLE)
    assert [chosen(20, learning=False), chosen(21, learning=False)] == ["explicit", "onehot"]


def test_no_graph_asks_for_the_table(monkeypatch):
    monkeypatch.setattr(dispatch, "fastest", lambda *_, **__: pytest.fail("looked up"))
    layer, image = MHSA2d(16, 2, max_size=(4, 4)).to("meta"), torch.empty(1, 16, 4, 4, device="meta")
    torch.export.export(layer.eval(), (image,))
    torch.compile(layer, backend="eager", fullgraph=True)(image)
    with pytest.raises(pytest.fail.Exception, match="looked up"):
        layer(image)
