"""psp-serve as it answers, on both faces.

Requests are written here from the protocol (KServe v2 with binary tensors), so that the client is tested on its own.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from calls import LABELS, decoded, file_of, get, pixels
from measure.server import Caller, Server, free_port
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import psp_runtime
from psp_runtime.addresses import check_address
from psp_runtime.cli import psp
from psp_runtime.engines.info import read_info
from psp_runtime.errors import EngineError, PspError
from psp_runtime.serving.client import connect


@pytest.fixture(scope="module")
def server(folder: Path):
    """All engines, the first one called psp; up to four pictures a batch, so that there are some on a CPU."""
    names = [word for name in ("psp", "seg", "sr", "steps") for word in ("--name", name)]
    engines = [folder / f"{name}.onnx" for name in ("face", "seg", "sr", "steps")]
    running = Server(*engines, options=(*names, "--batch", "4", "--delay", "20"), threads=1)
    yield running
    assert running.stop() == 0


class Paused(NamedTuple):
    """A client that asked once: its connection, the picture it got, and when that was."""

    remote: psp_runtime.Pipeline
    picture: np.ndarray
    since: float


@pytest.fixture(scope="module", autouse=True)
def paused(server: Server) -> Iterator[Paused]:
    """One that does nothing while the other tests run: those take longer than the server waits for it."""
    with connect(server.url) as remote:
        yield Paused(remote, remote.translate(pixels(1)).output, time.monotonic())


def test_it_answers_what_the_pipeline_computes(server: Server, engine: Path) -> None:
    rng, info = np.random.default_rng(1), read_info(engine)
    style = rng.standard_normal((2, info.styles, info.style_dim), np.float32)
    alpha = rng.random((2, info.styles), np.float32)
    with psp_runtime.load(engine, "cpu") as pipeline:
        for inputs in ({}, {"style": style}, {"style": style, "alpha": alpha}):
            status, outputs = Caller(server.port).infer(image=pixels(2), **inputs)
            expected = pipeline.translate(pixels(2), **inputs)
            assert status == 200
            np.testing.assert_array_equal(outputs["output"], expected.output)
            np.testing.assert_array_equal(outputs["latents"], expected.latents)


@pytest.mark.parametrize(
    ("command", "query"),
    [
        ("run face.png", ""),
        ("run face.png --size 40 --format webp --quality 80", "size=40&format=webp&quality=80"),
        ("mix face.png --count 1", "mix=true"),
        ("mix face.png -n 1 --seed 7 --psi 0.5 --layers 2-5 --alpha 0.3", "mix=1&seed=7&psi=0.5&layers=2-5&alpha=0.3"),
        ("run face.png --engine sr.onnx --downsample 4 --size 99", "engine=sr&downsample=4&size=99"),
        ("run labels.png --engine seg.onnx --format jpg", "engine=seg&format=jpg"),
        ("run face.png --engine steps.onnx --iterations 2", "engine=steps&iterations=2"),
        ("mix face.png -n 1 --engine steps.onnx", "engine=steps&mix=true"),
    ],
)
def test_translate_makes_the_pictures_of_psp(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, query: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(file_of(pixels(1)[0]))
    Path("labels.png").write_bytes(file_of(LABELS))
    words = command.replace("--engine ", f"--engine {folder}/").split()
    words += [] if "--engine" in command else ["--engine", str(folder / "face.onnx")]
    monkeypatch.setattr(sys, "argv", ["psp", *words])
    with pytest.raises(SystemExit) as end:
        psp()
    assert not end.value.code
    (made,) = tmp_path.glob("*_out.*")
    status, answer = Caller(server.port).translate(Path(words[1]).read_bytes(), query)
    assert status == 200, answer
    np.testing.assert_array_equal(decoded(answer), decoded(made.read_bytes()))


def test_steps_of_restyle_are_the_servers(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.array([[2], [0]], np.int32)
    status, outputs = Caller(server.port, "steps").infer(image=pixels(2), iterations=counts)
    assert status == 200
    with psp_runtime.load(folder / "steps.onnx", "cpu") as pipeline:
        for row, steps in enumerate((2, 5)):
            pipeline.repeat(steps)
            expected = pipeline.translate(pixels(2)[row : row + 1])
            np.testing.assert_array_equal(outputs["output"][row], expected.output[0])
    status, outputs = Caller(server.port, "steps").infer(image=pixels(1), iterations=np.array([[21]], np.int32))
    assert status == 400 and "iterations 21: expected 1 to 20 steps" in outputs["error"]
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(file_of(pixels(1)[0]))
    for where in (["--url", f"{server.url}/steps"], ["--engine", str(folder / "steps.onnx")]):
        monkeypatch.setattr(
            sys, "argv", ["psp", "run", "face.png", *where, "--iterations", "3", "-o", f"{where[0]}.png"]
        )
        with pytest.raises(SystemExit) as end:
            psp()
        assert not end.value.code
    np.testing.assert_array_equal(*(np.asarray(Image.open(f"{where}.png")) for where in ("--url", "--engine")))


def test_callers_are_batched_and_get_their_own_answers(server: Server, engine: Path) -> None:
    """One of them sends values that are refused: only that one is."""
    info = read_info(engine)
    bad = {"style": np.full((1, info.styles, info.style_dim), np.nan, np.float32)}

    def ask(seed: int) -> tuple[int, dict]:
        return Caller(server.port).infer(image=pixels(1, seed), **(bad if seed % 16 == 5 else {}))

    batches = server.metric("psp_batch_pictures_count")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(48)))
    with psp_runtime.load(engine, "cpu") as pipeline:
        for seed, (status, outputs) in enumerate(answers):
            if seed % 16 == 5:
                assert status == 400 and "style" in outputs["error"] and "not finite" in outputs["error"]
            else:
                assert status == 200
                np.testing.assert_array_equal(outputs["output"], pipeline.translate(pixels(1, seed)).output)
    assert server.metric("psp_batch_pictures_count") - batches < 45


def test_psp_run_over_http_makes_the_same_pictures(
    server: Server, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        Image.fromarray(pixels(1, seed)[0]).save(f"{name}.png")
    outputs = []
    for where in (["--url", server.url], ["--engine", str(engine), "--device", "cpu"]):
        words = ["psp", "morph", "a.png", "--to", "b.png", "--steps", "3", *where, "--out", f"{where[0]}.png"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            psp()
        assert not end.value.code
        outputs.append([np.asarray(Image.open(f"{where[0]}_{n}.png")) for n in (1, 2, 3)])
    np.testing.assert_array_equal(*outputs)


def test_styles_over_http(server: Server, engine: Path) -> None:
    black = np.zeros((1, 256, 256, 3), np.uint8)
    with connect(server.url) as remote, psp_runtime.load(engine, "cpu") as pipeline:
        for one in (remote, pipeline):
            made = one.mix(one.encode(black), one.styles(3, 7, 0.5))
            np.testing.assert_array_equal(made, pipeline.mix(pipeline.encode(black), pipeline.styles(3, 7, 0.5)))
        assert remote.info == pipeline.info and remote.device == "cpu"


def test_tritonclient_as_it_comes(server: Server, engine: Path) -> None:
    """Metadata, readiness, a request with an id and one output, versions."""
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready()
    assert all(client.is_model_ready(name) for name in ("psp", "psp_mapping", "seg", "seg_mapping", "sr"))
    assert client.is_model_ready("psp", "1") and not client.is_model_ready("none")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    info = read_info(engine)
    tensors = client.get_model_metadata("psp")
    assert [(one["name"], one["datatype"]) for one in tensors["inputs"]] == [
        ("image", "UINT8"), ("style", "FP32"), ("alpha", "FP32"),
    ]  # fmt: skip
    assert tensors["outputs"][1] == {"name": "latents", "datatype": "FP32", "shape": [-1, info.styles, info.style_dim]}
    image = http.InferInput("image", [1, 256, 256, 3], "UINT8")
    image.set_data_from_numpy(pixels(1))
    wanted = [http.InferRequestedOutput("latents", binary_data=True)]
    answer = client.infer("psp", [image], outputs=wanted, request_id="seven", model_version="1")
    assert answer.get_response()["id"] == "seven" and answer.as_numpy("output") is None
    assert answer.as_numpy("latents").shape == (1, info.styles, info.style_dim)


def test_metrics_and_pages(server: Server) -> None:
    assert Caller(server.port).infer(image=pixels(1))[0] == 200
    text = get(server, "/metrics").read().decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"psp_requests", "psp_batch_pictures", "psp_batch_seconds", "psp_waiting_requests"} <= names
    description = json.load(get(server, "/openapi.json"))
    paths = description["paths"]
    assert {"/translate", "/v2/models/psp/infer", "/v2/models/seg_mapping/infer", "/v2/health/ready"} <= set(paths)
    names = [one["name"] for one in paths["/translate"]["post"]["parameters"]]
    assert {"engine", "format", "mix", "seed", "psi", "downsample", "mask"} <= set(names)
    page = get(server, "/").read().decode()
    assert all(f"<code>{name}</code>" in page for name in names) and not re.search(r"(src|href)=.?https?:", page)


def test_the_description_is_openapi(server: Server) -> None:
    """Every path has its operation, every parameter a schema, every reference leads somewhere."""
    description = json.load(get(server, "/openapi.json"))
    assert description["openapi"].startswith("3.1") and set(description["info"]) == {"title", "version"}
    for methods in description["paths"].values():
        for operation in methods.values():
            assert operation["summary"] and operation["responses"]
            for one in operation.get("parameters", []):
                assert one["in"] == "query" and one["schema"]["type"] in ("string", "integer", "number", "boolean")
    assert "Error" in description["components"]["schemas"]


def test_addresses(server: Server) -> None:
    for host, port, words in (
        ("127.0.0.1", server.port, f"cannot listen on 127.0.0.1 port {server.port}"),
        ("nowhere.invalid", 1, "cannot listen on nowhere.invalid port .*; choose another"),
        ("a..b", 1, "--host a..b: expected an address"),
        ("a" * 70 + ".example", 1, "expected an address"),
    ):
        with pytest.raises(PspError, match=words):
            check_address(host, port)
    assert check_address("localhost", free_port()) in ("127.0.0.1", "::1")
    with pytest.warns(UserWarning, match="everyone who reaches this machine can use it, without a password"):
        assert check_address("0.0.0.0", free_port()) == "0.0.0.0"


def test_what_a_client_is_told(server: Server) -> None:
    for url, words in (
        (f"{server.url}/none", "model none: expected psp, psp_mapping, seg, seg_mapping, sr, steps, steps_mapping$"),
        (f"http://127.0.0.1:{free_port()}", "is psp-serve running there"),
        (f"https://127.0.0.1:{server.port}", "psp-serve itself speaks http, not https"),
    ):
        with pytest.raises(EngineError, match=words) as caught:
            connect(url)
        assert "\n" not in str(caught.value)


def test_a_client_may_pause(paused: Paused) -> None:
    """Connections that do nothing are closed after ten seconds; the client opens another one."""
    time.sleep(max(0, paused.since + 11 - time.monotonic()))
    np.testing.assert_array_equal(paused.remote.translate(pixels(1)).output, paused.picture)
