"""A served model: what it answers, what it refuses, and how it ends; over loopback."""

import asyncio
import http.client
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import uvicorn
from PIL import Image

from botvision.cli import main
from botvision.maskrcnn.masks import decode
from botvision.serve import Limits, Served, application
from botvision.serve.batches import Batches
from botvision.serve.commands import listening
from botvision.serve.served import together

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
ROOT = Path(__file__).parents[2]
ABOUT = {"input": "image", "mean": [0.5] * 3, "std": [0.5] * 3, "sha256": "0" * 64}
DETECTOR = {**ABOUT, "task": "maskrcnn", "categories": [[7, "cat"], [8, "dog"]], "masks": True}
CLASSIFIER = {**ABOUT, "task": "classify", "classes": ["a", "b", "c"], "img_size": 32, "crop": 1.0, "model": "x"}
# in each image one dog in the box 2, 3, 10, 9; its score is the image's brightness
FINDS_BRIGHTNESS = """<ir_version: 10, opset_import: ["": 18]>
finds (uint8[b, h, w, 3] images) =>
      (float[n, 4] boxes, int64[n] labels, float[n] scores, int64[n] image, float[n, 28, 28] masks) {
    sides = Constant <value_ints = [1, 2, 3]> ()
    white = Constant <value_float = 255.0> ()
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    box = Constant <value = float[1, 4] {2.0, 3.0, 10.0, 9.0}> ()
    values = Cast <to = 1> (images)
    mean = ReduceMean <keepdims = 0> (values, sides)
    scores = Div (mean, white)
    first = Constant <value_ints = [0]> ()
    count = Shape <start = 0, end = 1> (images)
    number = Squeeze (count, first)
    image = Range (zero, number, one)
    two = Constant <value_ints = [2]> ()
    labels = Expand (two, count)
    four = Constant <value_ints = [4]> ()
    shape = Concat <axis = 0> (count, four)
    boxes = Expand (box, shape)
    side = Constant <value_ints = [28, 28]> ()
    grid = Concat <axis = 0> (count, side)
    masks = ConstantOfShape <value = float[1] {1.0}> (grid)
}"""
# logits are the means of red, green and blue
TELLS_COLOUR = """<ir_version: 10, opset_import: ["": 18]>
tells (uint8[b, h, w, 3] images) => (float[b, 3] logits) {
    sides = Constant <value_ints = [1, 2]> ()
    values = Cast <to = 1> (images)
    logits = ReduceMean <keepdims = 0> (values, sides)
}"""
MOST = 1_000_000  # pixels


def written(path, graph, about):
    model = onnx.parser.parse_model(graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.helper.set_model_props(model, {"botvision": json.dumps(about)})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A detector's and a classifier's file."""
    folder = tmp_path_factory.mktemp("served")
    return written(folder / "detector.onnx", FINDS_BRIGHTNESS, DETECTOR), written(
        folder / "classifier.onnx", TELLS_COLOUR, CLASSIFIER
    )


@contextmanager
def served(path, limits=Limits()):  # noqa: B008
    """The port of a server in a thread of this process."""
    model = Served.load(path, threshold=0.1, top=2, batch_size=8, threads=1, most_pixels=MOST)
    server = uvicorn.Server(uvicorn.Config(application(model, limits), log_level="warning"))
    with listening("127.0.0.1", 0) as place:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            yield place.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(files):
    with served(files[0], Limits(upload=200_000, batch_seconds=0.1, read_seconds=1.0)) as number:
        yield number


def asked(port, method, path, body=None, headers=None):
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def predicted(port, body, headers=None):
    status, said, _ = asked(port, "POST", "/predict", body, headers)
    return status, json.loads(said)


def picture(grey, height=20, width=30, form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(out, form)
    return out.getvalue()


def png_of(side):
    """A PNG of a few bytes that says that it is side × side."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def is_well(port):
    assert asked(port, "GET", "/health")[0] == 200
    status, answer = predicted(port, picture(255))
    assert status == 200
    assert [found["score"] for found in answer["objects"]] == [1.0]


def test_a_detector_answers_as_predict_writes(port):
    status, answer = predicted(port, picture(102))
    assert status == 200
    assert (answer["height"], answer["width"]) == (20, 30)
    [found] = answer["objects"]
    mask = found.pop("segmentation")
    assert found == {"category": "dog", "category_id": 8, "bbox": [2, 3, 8, 6], "score": pytest.approx(0.4)}
    wanted = np.zeros((20, 30), np.uint8)
    wanted[3:9, 2:10] = 1
    np.testing.assert_array_equal(decode(mask, height=20, width=30), wanted)
    assert predicted(port, picture(20))[1]["objects"] == []  # below the threshold


def test_a_classifier_answers_as_predict_writes(files):
    out = io.BytesIO()
    Image.new("RGB", (40, 50), (4, 6, 5)).save(out, "PNG")
    with served(files[1]) as port:
        status, answer = predicted(port, out.getvalue())
        shares = np.exp([6, 5, 4]) / np.exp([4, 6, 5]).sum()
        assert status == 200
        assert answer == {"height": 50, "width": 40, "names": ["b", "c"],
                          "probabilities": pytest.approx(shares[:2], abs=1e-6)}  # fmt: skip
        assert json.loads(asked(port, "GET", "/health")[1])["task"] == "classify"


BAD = {
    "nothing": (b"", 400, "there is no image in the request"),
    "text": (b"hello", 400, "cannot identify image file;"),
    "half a PNG": (picture(9, 200, 200)[:60], 400, "cannot read image (upload)"),
    "a bomb": (png_of(60_000), 400, "more than 1,000,000 pixels"),
    "a large image": (png_of(1001), 400, "more than 1,000,000 pixels"),
    "a large file": (bytes(300_000), 413, "an upload may have 0.1907 MiB; send a smaller image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_in_one_line_and_the_next_is_answered(port, name):
    body, status, said = BAD[name]
    found, answer = predicted(port, body)
    assert found == status
    assert list(answer) == ["error"]
    assert said in answer["error"]
    assert "\n" not in answer["error"]
    is_well(port)


def test_bad_requests_are_refused_and_the_next_is_answered(port):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert predicted(port, b"--x--", form)[0] == 415
    in_pieces = (bytes(50_000) for _ in range(6))
    assert predicted(port, in_pieces)[0] == 413  # without a length beforehand
    assert asked(port, "GET", "/predict")[0] == 405
    status, said, _ = asked(port, "GET", "/etc/passwd")
    assert (status, json.loads(said)) == (404, {"error": "Not Found"})
    is_well(port)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf an image",
    ],
    ids=["no HTTP", "a negative length", "no length", "broken off"],
)
def test_broken_connections_do_not_end_it(port, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(2000)
    assert answer == b"" or b" 400 " in answer.splitlines()[0]
    is_well(port)


def test_answers_do_not_wait_for_acknowledgements(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    seconds = []
    for _ in range(20):
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - begun)
    connection.close()
    assert min(seconds[1:]) < 0.02  # a delayed acknowledgement takes 0.04


def test_a_slow_upload_is_given_up(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nslow")
        assert b" 408 " in connection.recv(2000).splitlines()[0]
    is_well(port)


def figures(port):
    said = asked(port, "GET", "/metrics")[1].decode()
    return {name: float(value) for name, value in re.findall(r"^(botvision_\S+) (\S+)$", said, re.M)}


def test_requests_at_a_time_are_computed_together_and_each_gets_its_own(port):
    before = figures(port)
    bodies = [picture(grey, height=10 + grey % 3) for grey in range(40, 56)] + [b"no image"]
    with ThreadPoolExecutor(len(bodies)) as clients:
        answers = list(clients.map(lambda body: predicted(port, body), bodies))
    assert answers.pop()[0] == 400
    scores = [answer["objects"][0]["score"] for _, answer in answers]
    assert scores == pytest.approx([grey / 255 for grey in range(40, 56)])
    after = figures(port)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["botvision_batch_images_sum"] == len(bodies)
    assert grown["botvision_batch_images_count"] < len(bodies) / 2
    assert grown['botvision_requests_total{status="200"}'] == 16
    assert after["botvision_requests_waiting"] == 0


def test_more_than_may_wait_are_sent_away(files):
    with served(files[0], Limits(waiting=1, batch_seconds=1.0)) as port, ThreadPoolExecutor(1) as other:
        first = other.submit(predicted, port, picture(255))
        while figures(port)["botvision_requests_waiting"] == 0:
            time.sleep(0.01)
        status, said, headers = asked(port, "POST", "/predict", picture(255))
        assert status == 503
        assert headers["retry-after"] == "1"
        assert "1 requests wait already" in json.loads(said)["error"]
        assert first.result()[0] == 200


def test_what_a_batch_cannot_do_is_done_alone():
    batches = []

    def work(uploads):
        batches.append(list(uploads))
        if b"bad" in uploads:
            raise MemoryError("too large")
        return [upload.decode() for upload in uploads]

    async def answered():
        waiting = Batches(work, size=8, seconds=0.05, told=lambda _: None)
        running = asyncio.create_task(waiting.run())
        given = await asyncio.gather(*(waiting.answer(u) for u in (b"a", b"bad", b"c")), return_exceptions=True)
        running.cancel()
        return given

    one, bad, other = asyncio.run(answered())
    assert (one, other) == ("a", "c")
    assert isinstance(bad, MemoryError)
    assert batches == [[b"a", b"bad", b"c"], [b"a"], [b"bad"], [b"c"]]


def test_uploads_of_a_batch_are_decoded_as_memory_allows(files, monkeypatch):
    """What is in memory at a time is bounded by pixels, which the headers tell; answers keep their order."""
    held, read = [], Served.read

    def counted(self, upload):
        held[-1] += 1
        return read(self, upload)

    def parts(uploads):
        for some in together(uploads):
            held.append(0)
            yield some

    monkeypatch.setattr("botvision.serve.served.MOST_PIXELS", 2 * 20 * 30)
    monkeypatch.setattr("botvision.serve.served.together", parts)
    monkeypatch.setattr(Served, "read", counted)
    model = Served.load(files[0], threshold=0.0, top=1, batch_size=8, threads=1, most_pixels=10_000)
    uploads = [picture(0), b"no image", picture(51), picture(102), picture(255, height=60), picture(153)]
    answers = model.answers(uploads)
    assert held == [3, 1, 1, 1]
    assert isinstance(answers.pop(1), ValueError)
    assert [one["objects"][0]["score"] for one in answers] == pytest.approx([0, 0.2, 0.4, 1, 0.6])


def test_a_want_of_memory_is_no_fault_of_the_image(files, monkeypatch):
    def full(*_, **__):
        raise ValueError("cannot read image") from MemoryError()

    monkeypatch.setattr("botvision.serve.served.open_image", full)
    model = Served.load(files[1], threshold=0.5, top=1, batch_size=8, threads=1, most_pixels=10_000)
    with pytest.raises(MemoryError, match="no memory to decode an image of 5 bytes"):
        model.answers([b"image"])


WITHOUT_TORCH = """
import signal, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "timm", "torchvision", "supervision", "lightning"}:
            raise ModuleNotFoundError(f"{name} is not to be imported", name=name)

sys.meta_path.insert(0, Refusing())
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from botvision.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_process_without_torch_serves_until_it_is_stopped(files, sent, code):
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", str(files[0]), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline()
            port = int(re.fullmatch(r"serving detector.onnx \(maskrcnn\) at http://127.0.0.1:(\d+), .*\n", said)[1])
            is_well(port)
            if sys.platform == "linux":
                assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""
            process.send_signal(sent)
            out, rest = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in rest
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max_mb", "0"], "max_mb=0.0 must be above 0"),
        (["--max_megapixels", "-1"], "max_megapixels=-1.0 must be above 0"),
        (["--waiting", "0"], "waiting=0 must be at least 1"),
        (["--batch_ms", "-1"], "batch_ms=-1.0 must lie in"),
        (["--batch_size", "0"], "batch_size=0 must be at least 1"),
        (["--threshold", "2"], "threshold=2.0 must lie in 0 … 1"),
        (["--port", "70000"], "cannot listen at 127.0.0.1, port 70000"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_refused(files, options, said, capsys):
    assert main(["serve", str(files[0]), *options]) == 2
    assert said in capsys.readouterr().err


def test_other_files_and_a_taken_port_are_refused(files, tmp_path, capsys):
    backbone = written(tmp_path / "backbone.onnx", TELLS_COLOUR, {**ABOUT, "task": "backbone"})
    tensors = written(tmp_path / "tensors.onnx", FINDS_BRIGHTNESS, {**DETECTOR, "input": "tensor"})
    with listening("127.0.0.1", 0) as taken:
        number = str(taken.getsockname()[1])
        for path, said in (
            (tmp_path / "best.ckpt", "is a checkpoint; botvision export"),
            (tmp_path / "none.onnx", "no exported graph at"),
            (backbone, "is a graph of task 'backbone', not 'classify'"),
            (tensors, "takes tensors"),
            (files[0], "address already in use; give another --host or --port"),
        ):
            assert main(["serve", str(path), "--port", number]) == 2
            assert said in capsys.readouterr().err


def test_the_dockerfile_installs_what_serving_asks_for():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = asked["optional-dependencies"]
    needed = {name_of(line) for line in (*extras["serve"], *extras["deploy"])} - {"botvision"}
    known = needed | {name_of(line) for line in (*asked["dependencies"], *extras["train"])}
    [lines] = re.findall(r"RUN pip install --no-cache-dir \\\n(.*)\n", (ROOT / "Dockerfile").read_text())
    installed = {name_of(word.strip('"')) for word in lines.split()}
    assert needed <= installed <= known
    assert "torch" not in installed


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0]
