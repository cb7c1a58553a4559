"""The chosen hardware, and the machine's name."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet import device
from pocket_resnet.device import Hardware, choose, machine, memory_errors, num_cores
from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.recipe.sections import HardwareRecipe

CPU = torch.device("cpu")


def test_requested_device_and_precision_are_used() -> None:
    hardware = choose("cpu", precision="fp32", num_threads=1)
    assert (hardware.device, hardware.precision) == (CPU, "fp32")
    assert torch.get_num_threads() == 1
    assert choose("auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda", "mps", "cuda:0", "gpu"])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"the device {name} is not available\n  use one of auto, cpu$"):
        choose(name)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, True),
        ({"winograd": False}, False),
        ({"precision": "bf16"}, False),
        ({"channels_last": False}, False),
    ],
)
def test_winograd_is_for_fp32_on_the_cpu_with_channels_last(choices: dict[str, Any], expected: bool) -> None:
    assert choose(**{"device": "cpu", "precision": "fp32"} | choices).winograd == expected
    assert not choose(**HardwareRecipe(device="cpu", precision="fp32", compile=True).choices()).winograd


@pytest.mark.parametrize(
    ("flags", "precision"), [({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")]
)
def test_bf16_only_where_it_is_an_instruction(flags: set[str], precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_features", lambda: flags)
    assert choose("cpu", num_threads=1).precision == precision


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_multiplies_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with Hardware(CPU, precision, channels_last=False).autocast():
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("channels_last", [True, False])
def test_place_lays_filters_out(channels_last: bool) -> None:
    hardware = Hardware(CPU, "fp32", channels_last)
    filters = hardware.place(torch.nn.Conv2d(3, 8, 3)).weight
    assert filters.is_contiguous(memory_format=hardware.memory_format)
    assert filters.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_place_does_not_copy_what_is_in_place() -> None:
    x = torch.ones(2)
    assert device.sent(x, CPU) is x


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 8), (None, 8)]
)
def test_num_cores_are_those_of_this_process(quota: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 8 cores that it is bound to, those within its container's quota, if there is one."""

    def read_text(_: Path) -> str:
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert num_cores() == expected


def test_machine_names_processor_threads_precision_and_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n")
    version = torch.__version__.split("+")[0]
    assert machine(Hardware(CPU, "bf16", True)) == f"Some CPU @ 3 GHz, 1 thread, bf16, torch {version}"


FREED = """
import torch
from pocket_resnet.device import keep_freed_memory
if {keep}:
    keep_freed_memory()
values = torch.ones(64 * 2**20 // 4)
del values
print(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")
def test_freed_memory_is_kept() -> None:
    """64 MiB of a freed tensor stay with the process; without the setting they return to the system."""
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FREED.format(keep=keep)])) for keep in (True, False)
    )
    assert kept - given_back > 50 * 1024


def test_out_of_memory_becomes_an_error() -> None:
    with pytest.raises(EnvironmentFault, match="out of memory") as raised, memory_errors():
        torch.empty(2**55)
    assert "--batch-size" in str(raised.value)
    with pytest.raises(RuntimeError, match="shapes cannot"), memory_errors():
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("features", "choices", "expected"),
    [
        ({"avx512_bf16", "amx_bf16"}, {}, True),
        ({"avx512_bf16"}, {}, False),
        ({"avx512_bf16", "amx_bf16"}, {"precision": "fp32"}, False),
        ({"avx512_bf16", "amx_bf16"}, {"channels_last": False}, False),
    ],
)
def test_images_stand_side_by_side_for_amx_in_bf16(
    features: set[str], choices: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_cpu_features", lambda: features)
    assert choose(**{"device": "cpu"} | choices).side_by_side == expected
