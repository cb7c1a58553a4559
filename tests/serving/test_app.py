"""The API's responses, and its description, from which schemathesis generates requests."""

import http.client
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import given, settings
from PIL import ExifTags, Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

import pocket_resnet

from .conftest import GOLDEN, PREDICT, Client, Process, Response, Server, picture

BOUNDARY = "a boundary"
FORM = {"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'}


def form(*contents: bytes, end: str = "--\r\n", disposition: str = 'name="pictures"; filename="../x.png"') -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    return b"".join(head + content + b"\r\n" for content in contents) + f"--{BOUNDARY}{end}".encode()


def predictions(response: Response) -> Any:
    assert response.status == 200, response.body
    return json.loads(response.body)["predictions"]


def problem(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error"]


@pytest.mark.threat(24)
def test_one_and_several(process: Process) -> None:
    """Equal to `predict`, in the order of the request, also for rotated, transparent and 16-bit pictures."""
    contents = [picture(seed, size=8 + seed) for seed in range(5)] + odd_pictures()
    expected = pocket_resnet.load(GOLDEN, "cpu").predict(contents, top=3)
    several = predictions(process.send("POST", PREDICT, form(*contents), FORM))
    assert len(several) == len(contents)
    for content, prediction, together in zip(contents, expected, several, strict=True):
        [alone] = predictions(process.predict(content))
        for each in (together, alone):
            assert each["label"] == prediction.label == each["top"][0]["label"]
            top = {ranked["label"]: ranked["probability"] for ranked in each["top"]}
            assert top == pytest.approx(dict(prediction.top), abs=1e-5)


def odd_pictures() -> list[bytes]:
    draws, exif = np.random.default_rng(0), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned, transparent, deep = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(draws.integers(0, 256, (9, 14, 3), np.uint8)).save(turned, "JPEG", exif=exif)
    Image.fromarray(draws.integers(0, 256, (9, 14, 4), np.uint8)).save(transparent, "WEBP", lossless=True)
    Image.fromarray(draws.integers(0, 65_536, (9, 14), np.uint16)).save(deep, "TIFF")
    return [file.getvalue() for file in (turned, transparent, deep)]


def test_top(process: Process) -> None:
    for top, num_classes in ((1, 1), (2, 2), (1000, len(pocket_resnet.load(GOLDEN, "cpu").card.class_names))):
        [prediction] = predictions(
            process.send("POST", f"{PREDICT}?top={top}", picture(), {"Content-Type": "image/png"})
        )
        assert len(prediction["top"]) == num_classes
    for top in ("0", "-1", "1001", "x", "1.5", ""):
        response = process.send("POST", f"{PREDICT}?top={top}", picture(), {"Content-Type": "image/png"})
        assert response.status == 422
        assert problem(response)[1].startswith("top: input should be")
        assert json.loads(response.body)["hint"] == "use 1 to 1000"


@pytest.mark.threat(33)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(), "a form without files"),
        (form(b""), "an empty file"),
        (form(picture(), b"no"), "picture 2: not an image"),
        (form(picture(), disposition='name="pictures"'), "Too many fields"),
        (form(picture(), disposition="x"), 'header field "name" must be provided'),
        (form(*[b"x"] * 17), "Too many files"),
        (b"nothing", "Invalid multipart data."),
        (b"", "a form without files"),
    ],
)
def test_bad_forms(body: bytes, message: str, process: Process) -> None:
    response = process.send("POST", PREDICT, body, FORM)
    assert response.status == 400
    assert message in problem(response)[1]


def test_other_routes(process: Process) -> None:
    assert json.loads(process.send("GET", "/health").body) == {"status": "ok"}
    described = json.loads(process.send("GET", "/v1/model").body)
    card = pocket_resnet.load(GOLDEN, "cpu").card
    assert described["class_names"] == list(card.class_names)
    assert described["image_size"] == card.spec.image_size
    assert described["facts"]["training_data"] == card.data
    assert str(GOLDEN) not in json.dumps(described)
    for method, path in (("GET", PREDICT), ("POST", "/health"), ("DELETE", "/")):
        assert problem(process.send(method, path)) == (405, "method not allowed")


def test_pages_load_only_local_files(process: Process) -> None:
    for path in ("/", "/docs"):
        response = process.send("GET", path)
        assert response.status == 200
        linked = set(re.findall(r'(?:src|href)="([^"]+)"', response.body.decode()))
        assert linked
        for link in linked - {"data:,"}:
            assert link.startswith("/"), link
            assert process.send("GET", link).status == 200
    assert "POST /v1/predict" in process.send("GET", "/docs").body.decode()


def figures(client: Client) -> dict[str, float]:
    lines = client.send("GET", "/metrics").body.decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_metrics(start: Callable[..., Server]) -> None:
    server = start()
    server.send("POST", PREDICT, form(*[picture()] * 5), FORM)
    server.predict(b"no")
    server.send("GET", "/" + "x" * 1000)
    metrics = figures(server)
    assert metrics['pocket_resnet_requests_total{route="/v1/predict",status="200"}'] == 1
    assert metrics['pocket_resnet_requests_total{route="/v1/predict",status="400"}'] == 1
    assert metrics['pocket_resnet_requests_total{route="other",status="404"}'] == 1
    assert metrics["pocket_resnet_batch_size_sum"] == 5
    assert 1 <= metrics["pocket_resnet_batch_size_count"] <= 5
    assert metrics["pocket_resnet_waiting_pictures"] == 0
    assert metrics['pocket_resnet_request_seconds_count{route="/v1/predict"}'] == 2


def test_two_servers_in_a_program(start: Callable[..., Server]) -> None:
    first, second = start(), start()
    first.predict(picture())
    assert figures(first)["pocket_resnet_batch_size_count"] == 1
    assert figures(second)["pocket_resnet_batch_size_count"] == 0


def test_several_requests_over_one_connection(process: Process) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
    for content, status in ((picture(), 200), (b"no", 400), (picture(), 200)):
        connection.request("POST", PREDICT, io.BytesIO(content), {"Content-Type": "image/png"}, encode_chunked=True)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


@pytest.mark.threat(33)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_description(mode: GenerationMode, process: Process) -> None:
    """Each gets a documented response, never a server error.

    Two checks are left out: the description allows random bytes as a picture, and a form's wrong field may not be a
    file.
    """
    base = f"http://127.0.0.1:{process.port}"
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {PREDICT, "/v1/model", "/health", "/metrics"}
    for operation in operations:

        @settings(max_examples=20, derandomize=True, database=None, deadline=None)
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.call_and_validate(base_url=base, excluded_checks=[positive_data_acceptance, negative_data_rejection])

        if mode is GenerationMode.POSITIVE or operation.path == PREDICT:
            check()
