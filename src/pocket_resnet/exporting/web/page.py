"""Exports a model as one self-contained HTML page that classifies pictures in the visitor's browser.

The page consists of HTML, style and scripts from templates/, and of the exported file, ONNX Runtime Web and its
licences, each as base64 of gzip. A policy in its head forbids everything else: the page makes no request.
"""

import base64
import gzip
import hashlib
import logging
import lzma
from functools import cache
from importlib import resources
from pathlib import Path

import onnx
from markupsafe import Markup

from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.export import OnnxExporter
from pocket_resnet.exporting.exporter import Exported, Exporter, licence
from pocket_resnet.exporting.parity import ParityError, Precision
from pocket_resnet.exporting.web import template
from pocket_resnet.exporting.web.samples import choose_samples
from pocket_resnet.exporting.web.template import Page
from pocket_resnet.torch_settings import own_settings

_log = logging.getLogger(__name__)

RUNTIME_VERSION = "1.30.0"
_FOLDER = resources.files("pocket_resnet.exporting.web")


@own_settings()
def export_page(
    path: str | Path,
    *,
    precision: Precision | None = None,
    max_bytes: str | None = None,
    out: str | Path = "exports",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    num_samples: int = 0,
) -> Exported:
    """Write `out`/NAME-PRECISION.html, whose network was compared with the model as by `export_onnx`.

    The default precision is int8, or fp16 if the int8 file differs too much from the model; with `max_bytes`, it is the
    most exact one whose page fits. With `num_samples`, the page has that many validation images as sample pictures.
    Raises ParityError and UsageError as `export_onnx`.
    """
    if num_samples < 0:
        raise UsageError(f"{num_samples} samples are not possible", hint="give 0 or more")
    exporter = OnnxExporter(path, out=out, max_bytes=max_bytes, target="any", data=data, data_dir=data_dir)
    card = exporter.card
    samples = choose_samples(exporter.source, exporter.val, card.class_names, num_samples)

    def wrap(network: bytes, precision: Precision) -> bytes:
        facts = _facts(exporter, precision)
        return render(Page(exporter.name, card.class_names, card.spec.image_size, facts, samples), network)

    try:
        return exporter.write(precision, default="int8", wrap=wrap, extension="html")
    except ParityError as error:
        if precision or max_bytes:
            raise
        _log.warning("%s; the page contains fp16 instead", error.what)
        return exporter.write("fp16", default="fp16", wrap=wrap, extension="html")


def _facts(exporter: Exporter, precision: Precision) -> dict[str, str]:
    card = exporter.card
    images = {"val": "validation images", "test": "test images"}.get(card.split, f"images ({card.split})")
    facts = {
        "Name": exporter.name,
        "Parameters": f"{card.num_params:,}, stored as {precision}",
        "Training data": card.data,
        "Accuracy": f"{card.accuracy:.2%} of {card.num_images:,} {images}, measured in fp32",
        "Licence": licence(exporter.path),
        "Trained by": f"PocketResNet {card.version}",
    }
    return facts | ({"Note": card.caveat} if card.caveat else {})


def render(page: Page, content: bytes) -> bytes:
    """The page as HTML. `content` is an exported file."""
    style = template.style()
    script = template.script((_FOLDER / "templates/network.js").read_text(encoding="utf-8"))
    html: str = (
        template.environment()
        .get_template("exported.html.jinja")
        .render(
            page=page,
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            parts=_runtime_parts() | {"network": _packed(with_resized_output(content))},
            runtime_version=RUNTIME_VERSION,
        )
    )
    return html.encode()


@cache
def _runtime_parts() -> dict[str, str]:
    """The packed parts that all pages have; packing them takes seconds."""
    licence_text = (_FOLDER / "onnxruntime-web/LICENSE").read_bytes()
    return {
        "runtime": _packed(runtime_file("ort.wasm.bundle.min.mjs")),
        "wasm": _packed(runtime_file("ort-wasm-simd-threaded.wasm")),
        "notices": _packed(licence_text + b"\n" + runtime_file("ThirdPartyNotices.txt")),
    }


def runtime_file(name: str) -> bytes:
    """A file of ONNX Runtime Web, which the package contains compressed."""
    return lzma.decompress((_FOLDER / f"onnxruntime-web/{name}.xz").read_bytes())


def with_resized_output(content: bytes) -> bytes:
    """The exported file with the network's input as another output, uint8 [1, 3, S, S], which the page shows."""
    model = onnx.load_model_from_string(content)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("resized", onnx.TensorProto.UINT8, ["batch", 3, None, None])
    )
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _policy(style: str, script: str) -> str:
    """The content security policy: this style, this script, the runtime that it unpacks, and pictures in the page."""
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)} blob: 'wasm-unsafe-eval'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
