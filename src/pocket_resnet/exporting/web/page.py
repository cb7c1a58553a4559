"""One self-contained HTML page that classifies pictures in the visitor's browser.

The page consists of HTML, style and scripts from templates/, and of the exported file, ONNX Runtime Web and its
licences, each as base64 of gzip. A policy in its head forbids everything else: the page makes no request.
"""

import base64
import gzip
import hashlib
import lzma
from functools import cache
from importlib import resources

import onnx
from markupsafe import Markup

from pocket_resnet.exporting.web import template
from pocket_resnet.exporting.web.template import Page

RUNTIME_VERSION = "1.30.0"
_FOLDER = resources.files("pocket_resnet.exporting.web")


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
