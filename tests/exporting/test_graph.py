"""The graph: any network, and pictures prepared as the decoder prepares them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from onnxruntime import InferenceSession

from pocket_resnet.data.image import fit
from pocket_resnet.exporting.graph import compact, network_graph, with_half_weights, with_preprocessing
from pocket_resnet.exporting.session import Session
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec

KINDS: list[dict[str, Any]] = [
    {"block": "bottleneck", "preactivation": True, "activation": "silu"},
    {"stem": "whitening", "stem_kernel_size": 2, "downsample": "pool", "block": "single", "pool": "max"},
    {"shortcut": "identity", "squeeze_excite": "block", "dropout": 0.2, "drop_path": 0.2, "head_scale": 0.1},
    {"downsample": "pool-late", "activation": "gelu", "groups": 2, "batch_norm": False},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind))
def test_every_kind_of_network_gives_its_logits(kind: dict[str, Any], tiny_spec: NetworkSpec) -> None:
    model = ResNet(replace(tiny_spec, image_size=12, **kind))
    draws = torch.Generator().manual_seed(0)
    initialise(model, "default", draws)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics other than those of a fresh network
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5, generator=draws)
            torch.nn.init.uniform_(module.running_var, 0.5, 2, generator=draws)
    model.normalize.set_statistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    network = network_graph(model)
    images_NCHW = torch.rand(9, 3, 12, 12, generator=draws)
    with torch.inference_mode():
        expected_NK = model.eval()(images_NCHW).numpy()
    for batch_size in (1, 4, 9):
        logits_NK = Session(network).logits(images_NCHW.numpy(), batch_size)
        np.testing.assert_allclose(logits_NK, expected_NK, atol=1e-5)
    np.testing.assert_array_equal(Session(compact(network)).logits(images_NCHW.numpy(), 9), logits_NK)


def test_compact_shortens_inner_names(tiny_spec: NetworkSpec) -> None:
    network = network_graph(ResNet(replace(tiny_spec, squeeze_excite="block")))
    short = compact(network)
    assert [value.name for value in (*short.graph.input, *short.graph.output)] == ["pixels", "logits"]
    names = {name for node in short.graph.node for name in (node.name, *node.input, *node.output)}
    assert {name for name in names if len(name) > 3} == {"pixels", "logits"}
    before = {name for node in network.graph.node for name in (*node.input, *node.output)}
    assert len(names - {""}) == len(before - {""})


def test_compact_removes_zero_points_of_biases() -> None:
    """Which are 0; those of weights and activations stay."""
    network = parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        quantised (float[batch, 2] pixels) => (float[batch, 2] logits)
        <float scale = {0.5}, uint8 middle = {0}, int8[2] weight = {3, -4}, float[2] scales = {1.0, 2.0},
        int8[2] offsets = {1, 2}, int32[2] bias = {3, -4}, int32[2] zeros = {0, 0}>
        {
            levels = QuantizeLinear (pixels, scale, middle)
            back = DequantizeLinear (levels, scale, middle)
            factor = DequantizeLinear <axis = 0> (weight, scales, offsets)
            summand = DequantizeLinear <axis = 0> (bias, scales, zeros)
            product = Mul (back, factor)
            logits = Add (product, summand)
        }""")
    small = compact(network)
    assert [len(node.input) for node in small.graph.node] == [3, 3, 3, 2, 2, 2]
    assert len(small.graph.initializer) == len(network.graph.initializer) - 1
    inputs_NC = np.array([[0.6, -1], [2, 7]], np.float32)
    expected_NC = [[0.5 * 2 + 3, 0 * -12 - 8], [2 * 2 + 3, 7 * -12 - 8]]
    for each in (network, small):
        [result_NC] = InferenceSession(each.SerializeToString()).run(None, {"pixels": inputs_NC})
        np.testing.assert_allclose(result_NC, expected_NC)


@pytest.fixture(scope="module")
def prepare() -> Callable[[np.ndarray, int], np.ndarray]:
    """The picture as the graph passes it to the network, in levels; the network returns its input."""
    sessions: dict[int, Session] = {}

    def run(picture_HWC: np.ndarray, size: int) -> np.ndarray:
        if size not in sessions:
            types = ("float[batch, 3, S, S]", f"float[batch, {3 * size**2}]")
            graph = f"passing ({types[0]} pixels) => ({types[1]} logits) {{ logits = Flatten (pixels) }}"
            passing = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {graph}')
            sessions[size] = Session(with_preprocessing(passing, size, {}))
        levels_1N = sessions[size].logits(picture_HWC[None], 1) * 255
        return levels_1N.round().astype(np.uint8).reshape(3, size, size).transpose(1, 2, 0)

    return run


@pytest.mark.parametrize("size", [8, 32])
def test_pictures_are_prepared_as_the_decoder_does(size: int, prepare: Any) -> None:
    """Larger, smaller, as large; square, wide, tall; even and odd margins. A few values are rounded otherwise."""
    draws = np.random.default_rng(0)
    sizes = [1, 2, 7, size - 1, size, size + 1, 3 * size, 211]
    for side in sizes:
        for more in (0, 1, 2, 5):
            for shape in ((side, side + more), (side + more, side)):
                picture_HWC = draws.integers(0, 256, (*shape, 3), np.uint8)
                difference_SSC = np.abs(prepare(picture_HWC, size).astype(int) - fit(picture_HWC, size))
                assert difference_SSC.max() <= 1, shape
                assert (difference_SSC > 0).mean() <= 0.02, shape


def test_half_weights_take_half_the_bytes_and_compute_in_fp32(tiny_spec: NetworkSpec) -> None:
    model = ResNet(replace(tiny_spec, widths=(32, 64)))
    initialise(model, "default", torch.Generator().manual_seed(0))
    network = network_graph(model)
    halved = with_half_weights(network)
    stored = {tensor.name for tensor in halved.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    large = {tensor.name for tensor in network.graph.initializer if np.prod(tensor.dims) >= 1024}
    assert large
    assert stored == {f"{name}.fp16" for name in large}
    assert halved.ByteSize() < 0.6 * network.ByteSize()
    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    logits, expected = (Session(graph).logits(images, 4) for graph in (halved, network))
    assert 0 < np.abs(logits - expected).max() < 1e-3


def test_nothing_about_this_machine_is_in_the_file(tiny_model: ResNet) -> None:
    content = with_preprocessing(network_graph(tiny_model), 8, {}).SerializeToString()
    for word in (str(Path(__file__).parents[2]), "site-packages", ".py", "stack_trace"):
        assert word.encode() not in content
