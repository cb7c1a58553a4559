"""The page as a file: its parts, its policy, and what the command refuses."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import onnx
import pytest

from pocket_resnet.exporting import parity
from pocket_resnet.exporting.exporter import Exported
from pocket_resnet.exporting.web import page

Run = Callable[..., tuple[int, str, str]]
NUM_BYTES_OF_CPU94 = 2_007_117  # in int8, docs/deploy.md
SHA256 = {  # of the files in onnxruntime-web-1.30.0.tgz from npm, and of the notices in onnxruntime 1.30.0 from PyPI
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ThirdPartyNotices.txt": "143764b952fdb1a7c69ce653bfba74a7744d6a8a573bfb73e235fba356c83de3",
}


def parts(text: str) -> dict[str, bytes]:
    """The packed parts of a page, unpacked."""
    packed = re.findall(r'<script id="(\w+)" type="text/plain">([^<]*)</script>', text)
    return {name: gzip.decompress(base64.b64decode(content)) for name, content in packed}


@pytest.mark.parametrize("name", SHA256)
def test_runtime_is_as_published(name: str) -> None:
    content = page.runtime_file(name)
    assert hashlib.sha256(content).hexdigest() == SHA256[name]
    if name.endswith(".mjs"):
        assert f"ONNX Runtime Web v{page.RUNTIME_VERSION}".encode() in content


def test_parts(fp32_page: Exported) -> None:
    unpacked = parts(fp32_page.file.read_text(encoding="utf-8"))
    assert list(unpacked) == ["runtime", "wasm", "notices", "network"]
    assert unpacked["wasm"] == page.runtime_file("ort-wasm-simd-threaded.wasm")
    network = onnx.load_model_from_string(unpacked["network"])
    onnx.checker.check_model(network, full_check=True)
    assert [output.name for output in network.graph.output] == ["logits", "probabilities", "resized"]
    assert unpacked["notices"].startswith(b"MIT License\n\nCopyright (c) Microsoft Corporation")


def test_policy(fp32_page: Exported) -> None:
    """Only the page's own content: the hashes are those of its style and its script."""
    text = fp32_page.file.read_text(encoding="utf-8")
    policy = unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[0])
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        for tag in ("style", 'script type="module"')
        for content in re.findall(rf"<{tag}>(.*?)</{tag.split()[0]}>", text, re.DOTALL)
    ]
    assert len(hashes) == 2
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src {hashes[0]}",
        f"script-src {hashes[1]} blob: 'wasm-unsafe-eval'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not re.search(r'(src|href|action)="(?!data:)', text)


def test_a_network_of_2m_parameters_fits_in_8_mb(fp32_page: Exported) -> None:
    """Without counting on its compression."""
    network = parts(fp32_page.file.read_text(encoding="utf-8"))["network"]
    rest = fp32_page.num_bytes - len(base64.b64encode(gzip.compress(network)))
    assert rest + len(base64.b64encode(bytes(NUM_BYTES_OF_CPU94))) <= 8_000_000


def test_command(run: Run, digits_run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    code, printed, err = run("export", digits_run, "--format", "web", "--samples", 3, "--json", *out)
    assert code == 0, err
    exported = json.loads(printed)
    assert (exported["precision"], exported["file"]) == ("int8", f"{tmp_path}/out/digits-int8.html")
    text = Path(exported["file"]).read_text(encoding="utf-8")
    assert len(text.encode()) == exported["num_bytes"]
    assert text.count("<img ") == 3
    for statement in ("19,937, stored as int8", "validation images, measured in fp32", "unknown", "CC BY 4.0"):
        assert statement in text


def test_fp16_where_int8_differs_too_much(
    run: Run, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless int8 was requested."""
    monkeypatch.setitem(parity.LIMITS, "int8", replace(parity.LIMITS["int8"], agreement=1.1))
    out = ("--out", tmp_path / "out")
    code, printed, _ = run("export", digits_run, "--format", "web", "--json", *out)
    assert (code, Path(json.loads(printed)["file"]).name) == (0, "digits-fp16.html")
    assert "differs from the model" in caplog.text
    assert "the page contains fp16 instead" in caplog.text
    code, _, err = run("export", digits_run, "--format", "web", "--precision", "int8", *out)
    assert code == 4
    assert "differs from the model" in err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["digits-fp16.html"]


def test_too_small_for_a_page(run: Run, digits_run: Path, tmp_path: Path) -> None:
    """The runtime alone is larger, so the error proposes no number of parameters."""
    code, out, err = run("export", digits_run, "--format", "web", "--max-bytes", "1MB", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert re.search(r"no file fits in 1,000,000 bytes: fp32 takes 5,0\d\d,\d\d\d, fp16 takes", err)
    assert re.search(r"allow --max-bytes \d+\n", err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--format", "web", "--target", "vnni"), "a page has no target"),
        (("--samples", "3"), "only a page has samples"),
        (("--format", "web", "--samples", "-1"), "-1 samples are not possible"),
    ],
)
def test_invalid_usage(arguments: tuple[str, ...], what: str, run: Run, digits_run: Path) -> None:
    code, out, err = run("export", digits_run, *arguments)
    assert (code, out) == (2, "")
    assert what in err
