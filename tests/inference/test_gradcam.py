"""Grad-CAM: equal to the paper's equations, image by image, and without changes to the model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocket_resnet.inference.gradcam import gradcam
from pocket_resnet.model.resnet import ResNet, initialise


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def slow_gradcam(model: ResNet, image_CHW: Tensor, label: int) -> Tensor:
    """Equations 1 and 2 for one image, channel by channel."""
    features_BCHW = model.stages(model.stem(model.normalize(image_CHW[None]))).detach().requires_grad_()
    logits_BK = model.head(features_BCHW.mean((2, 3))) * model.spec.head_scale
    logits_BK[0, label].backward()  # type: ignore[no-untyped-call]
    assert features_BCHW.grad is not None
    weights_C = features_BCHW.grad[0].mean((1, 2))
    map_HW = sum(weight * plane_HW for weight, plane_HW in zip(weights_C, features_BCHW.detach()[0], strict=True))
    large = F.interpolate(torch.as_tensor(map_HW).clamp(min=0)[None, None], (8, 8), mode="bilinear")[0, 0]
    return large / large.max() if large.max() > 0 else large


def test_matches_the_paper(tiny_model: ResNet) -> None:
    tiny_model.eval()
    x_BCHW, classes_B = images(), torch.tensor([0, 2, 1])
    maps_BHW = gradcam(tiny_model, x_BCHW, classes_B)
    assert maps_BHW.shape == (3, 8, 8)
    assert maps_BHW.amax() == 1
    for image_CHW, label, map_HW in zip(x_BCHW, classes_B.tolist(), maps_BHW, strict=True):
        assert torch.allclose(map_HW, slow_gradcam(tiny_model, image_CHW, label), atol=1e-5)


@pytest.mark.parametrize("changes", [{"pool": "max"}, {"preactivation": True}, {"batch_norm": False}])
def test_other_networks(changes: dict[str, Any], tiny_spec: Any) -> None:
    model = ResNet(replace(tiny_spec, **changes))
    initialise(model, "default", torch.Generator().manual_seed(3))
    maps_BHW = gradcam(model, images(), torch.tensor([0, 1, 2]))
    assert bool(torch.isfinite(maps_BHW).all())
    assert 0 <= maps_BHW.min() <= maps_BHW.max() <= 1


def test_map_is_zero_where_weights_are_negative(tiny_model: ResNet) -> None:
    torch.nn.init.constant_(tiny_model.head.weight, -1.0)
    assert not gradcam(tiny_model, images(), torch.tensor([0, 1, 2])).any()


def test_model_is_unchanged(tiny_model: ResNet) -> None:
    tiny_model.train()
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    with torch.inference_mode(False):
        gradcam(tiny_model, images(), torch.tensor([0, 1, 2]))
    assert tiny_model.training
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert not tiny_model.stages[-1]._forward_hooks
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
