"""A step's rate, its limit and its kernels."""

import io

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import profile

from pocket_resnet.data.datasets import open_source
from pocket_resnet.device import choose
from pocket_resnet.model.conv3x3 import Conv3x3, allow_algorithms
from tools import steps

LOG = """\
onednn_verbose,v1,info,cpu,isa:Intel AVX2
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32 dst:f32,,,64x64x3x3,100
onednn_verbose,v1,primitive,create_nested:cache_miss,cpu,convolution,brg_conv_fwd:avx2,forward_training,,,,mb8,100
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx2,forward_training,,,,mb8,20.5
onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx2,backward_weights,,,,mb8,60
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx2,forward_training,,,,mb8,19.5
"""


def test_kernels_by_time() -> None:
    """Only what was executed counts, and only convolutions."""
    assert steps.most_used(io.StringIO(LOG)) == ("jit:avx2 60%", "brg_conv_fwd:avx2 40%")
    assert steps.most_used(io.StringIO("")) == ()


def test_convolutions_of_a_gpu_count_once() -> None:
    """A profile lists operations, with the time of the kernels that they started, and these kernels."""
    conv, norm = FunctionEventAvg(), FunctionEventAvg()
    conv.key, norm.key = "aten::cudnn_convolution", "aten::batch_norm"
    kernels = [FunctionEventAvg(), FunctionEventAvg()]
    for event, spent in zip((conv, norm), (30, 10), strict=True):
        event.device_type, event.self_device_time_total, event.self_cpu_time_total = DeviceType.CPU, spent, 1
    for event, key, spent in zip(kernels, ("xmma_fprop_implicit_gemm", "norm_kernel"), (30, 10), strict=True):
        event.key, event.device_type, event.self_device_time_total = key, DeviceType.CUDA, spent
    assert steps.share_of_convolutions([conv, norm, *kernels], on_gpu=True) == 0.75
    assert steps.share_of_convolutions([conv, norm, *kernels], on_gpu=False) == 0.5


def test_share_counts_all_operations_of_a_convolution_by_winograd() -> None:
    model = nn.Sequential(Conv3x3(96, 96, bias=False), nn.BatchNorm2d(96))
    x_BCHW = torch.rand(4, 96, 16, 16, requires_grad=True)
    shares = []
    for _ in range(2):
        with profile() as profiled:
            model(x_BCHW).sum().backward()
        shares.append(steps.share_of_convolutions(profiled.key_averages(), on_gpu=False))
        allow_algorithms(model, winograd_in="training")
    assert all(0.5 < share < 1 for share in shares), shares


def test_a_measured_step(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(steps, "BATCH_SIZE", 8)
    monkeypatch.setattr(steps, "LIMIT_CHANNELS", (8, 16))
    step = steps.measure("best:20k", open_source("digits"), choose("cpu", "fp32"))
    assert 19_000 <= step.num_params <= 20_000
    assert step.images_per_s > 0
    assert step.gflops_per_s > 0
    assert step.share_of_limit > 0
    assert 0 < step.convolution_share < 1
    assert step.kernels
    assert "onednn" not in capfd.readouterr().out
    [_, _, row] = steps.table([step])
    assert row.startswith(f"| `best:20k` | {step.num_params:,} | ")


def test_the_timed_step_is_of_the_whole_batch_at_full_size() -> None:
    """By default, `fast` starts with smaller images and `cpu94` skips easy images."""
    source = open_source("digits")
    for name in ("fast", "cpu94"):
        recipe = steps.at_full_size(name, source)
        assert (recipe.batch_size, recipe.train_image_sizes, recipe.hard_fraction) == (steps.BATCH_SIZE, (), 1.0)
