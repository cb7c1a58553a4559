"""Grad-CAM: the parts of an image that support a class.

Shapes: B images, C channels, H x W pixels. Source: Selvaraju et al. 2016 (arXiv:1610.02391), section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket_resnet.model.evaluation_mode import evaluation_mode
from pocket_resnet.model.resnet import ResNet


def gradcam(model: ResNet, x_BCHW: Tensor, classes_B: Tensor) -> Tensor:
    """The support of each pixel for the image's class, float [B, H, W] from 0 to 1 on the images' device.

    Computed from the last stage's output and resized to the images, which are float, 0 to 1. The largest value per
    image is 1, or 0 if nothing supports the class. The modes of the model's modules are restored.
    """
    kept: list[Tensor] = []
    hook = model.stages[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        with evaluation_mode(model), torch.enable_grad():
            logits_BK = model(x_BCHW)
            score = logits_BK.gather(1, classes_B[:, None]).sum()  # each image's logit depends on itself alone
            [gradient_BCHW] = torch.autograd.grad(score, kept)
    finally:
        hook.remove()
    weight_BC11 = gradient_BCHW.mean(dim=(2, 3), keepdim=True)
    map_B1HW = (weight_BC11 * kept[0].detach()).sum(1, keepdim=True).relu()
    map_B1HW = F.interpolate(map_B1HW, x_BCHW.shape[-2:], mode="bilinear", align_corners=False)
    largest_B111 = map_B1HW.amax(dim=(2, 3), keepdim=True)
    return (map_B1HW / largest_B111.clamp(min=torch.finfo(torch.float32).tiny)).squeeze(1)
