"""Programs of networks of every kind, in fp32 and int8, compute what the networks compute."""

from typing import Any

import numpy as np
import pytest
import torch

from pocket_resnet.exporting.parity import model_logits
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

runtime = pytest.importorskip("executorch.runtime", reason="executorch is not installed")

KINDS: dict[str, dict[str, Any]] = {
    "identity shortcuts": {"shortcut": "identity"},
    "pre-activated": {"preactivation": True, "squeeze_excite": "block", "squeeze_reduction": 4},
    "bottleneck": {"block": "bottleneck", "groups": 2, "activation": "silu"},
    "pooled": {"block": "single", "downsample": "pool", "stem": "whitening", "activation": "gelu", "pool": "max"},
    "no norms": {"batch_norm": False, "squeeze_excite": "stem", "image_size": 24},
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    from pocket_resnet.exporting.pte.program import Program, program
    from pocket_resnet.exporting.pte.quantization import quantized_module

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_blocks": (1, 1, 1), "widths": (8, 8, 16), "stem_width": 24, "stem_kernel_size": 2}
    if kind != "pooled":
        sizes |= {"stem_width": 8, "stem_kernel_size": 3}
    model = ResNet(NetworkSpec(num_classes=3, **sizes, **KINDS[kind])).eval()
    size = model.spec.image_size
    images_NSSC = np.random.default_rng(0).integers(0, 256, (20, size, size, 3), np.uint8)
    pixels_NCSS = images_NSSC.transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected_NK = model_logits(model, torch.from_numpy(images_NSSC).permute(0, 3, 1, 2))
    fp32_NK = Program(program(model, size, {})).logits(images_NSSC)
    np.testing.assert_allclose(fp32_NK, expected_NK, atol=1e-4)
    in_int8_NK = Program(program(quantized_module(model, pixels_NCSS), size, {})).logits(images_NSSC)
    assert not np.array_equal(in_int8_NK, fp32_NK)
    np.testing.assert_allclose(in_int8_NK, expected_NK, atol=0.05 * np.abs(expected_NK).max())


def test_texts_may_have_any_character() -> None:
    from pocket_resnet.exporting.pte.program import program

    names = ("naïve 猫", '"quoted"\n', "x" * 300)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 3))
    loaded = runtime.Runtime.get().load_program(program(network, 4, {"class_names": names, "license": "ö"}))
    assert loaded.load_method("class_names").execute([]) == list(names)
    assert loaded.load_method("license").execute([]) == ["ö"]
