"""Named networks have the parameter counts that the literature gives them."""

import pytest

from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import CATALOG, named
from pocket_resnet.model.counts import num_macs, num_params

PUBLISHED = {
    "original": 4_697_742,  # arXiv:2306.12100, table 1
    "fast": 319_328,  # by hand
    # He 2015, table 6: 0.27M, 0.46M, 0.66M, 0.85M, 1.7M; as in github.com/akamaster/pytorch_resnet_cifar10
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_173_962,  # github.com/kuangliu/pytorch-cifar
    "wrn-16-4": 2_748_890,  # Zagoruyko 2016: 2.7M
    "wrn-28-10": 36_479_194,  # 36.5M
    "wrn-40-2": 2_243_546,  # 2.2M
}


@pytest.mark.parametrize("name", CATALOG)
def test_parameters_are_the_published_number(name: str) -> None:
    assert num_params(named(name)) == PUBLISHED[name]


def test_multiply_adds_of_resnet20_are_the_published_40_8_million() -> None:
    assert num_macs(named("resnet20")) == pytest.approx(40.8e6, rel=0.01)


def test_any_wide_resnet_can_be_named() -> None:
    assert named("wrn-22-8").num_blocks == (3, 3, 3)
    assert named("wrn-22-8").widths == (128, 256, 512)


@pytest.mark.parametrize("name", ["wrn-17-2", "wrn-4-2", "wrn-16-0"])
def test_refuses_impossible_wide_resnets(name: str) -> None:
    with pytest.raises(UsageError, match=f"no such wide ResNet: {name}"):
        named(name)


def test_suggests_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean `resnet18`"):
        named("resnet-18")
    with pytest.raises(UsageError, match="known: original, fast"):
        named("?")
