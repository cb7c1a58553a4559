"""Held-out images stay held out as the folder grows; copies are never in both splits."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from painted import opened
from pocket_resnet.data.holdout import Holdout
from pocket_resnet.data.source import Source

SHARE = 0.1
Classes = Mapping[str, list[str]]
CLASSES = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 400).map(str), min_size=1, max_size=60))


def train_and_val(classes: Classes, name: str) -> tuple[set[str], set[str]]:
    """The contents of a class for training and for validation."""
    held = Holdout.of(classes, SHARE).contents
    return {*classes[name]} - held, {*classes[name]} & held


@given(CLASSES)
def test_every_class_has_training_and_if_possible_validation_images(classes: Classes) -> None:
    shared = len({content for name in classes for content in set(classes[name])}) < sum(
        len(set(contents)) for contents in classes.values()
    )
    for name, contents in classes.items():
        train, val = train_and_val(classes, name)
        assert train
        assert shared or bool(val) == (len(set(contents)) > 1)


@pytest.mark.threat(44)
@given(CLASSES, CLASSES)
def test_growth_moves_only_the_named_exceptions(classes: Classes, more: Classes) -> None:
    grown = {name: contents + more.get(name, []) for name, contents in classes.items()} | {
        name: contents for name, contents in more.items() if name not in classes
    }
    before, after = Holdout.of(classes, SHARE), Holdout.of(grown, SHARE)
    excepted = {content for name in before.exceptions for content in classes[name]}
    excepted |= {content for name in after.exceptions for content in grown[name]}
    moved = {content for contents in classes.values() for content in contents} & (before.contents ^ after.contents)
    assert moved <= excepted
    assert len(moved) <= len(before.exceptions) + len(after.exceptions)  # one image each


def test_about_the_share_is_held_out() -> None:
    held = Holdout.of({"a": [str(number) for number in range(10_000)]}, SHARE)
    assert 900 < len(held.contents) < 1100
    assert held.exceptions == ()


def test_exceptions_end_when_the_class_grows() -> None:
    """Three images, none held out by rank, then a fourth that is."""
    ranked = [str(number) for number in range(1000)]
    held = Holdout.of({"a": ranked}, SHARE).contents
    low, high = min(held), [content for content in ranked if content not in held][:3]
    few = Holdout.of({"a": high}, SHARE)
    assert (len(few.contents), few.exceptions) == (1, ("a",))
    assert Holdout.of({"a": [*high, low]}, SHARE) == Holdout(frozenset({low}), ())
    assert Holdout.of({"a": [low]}, SHARE) == Holdout(frozenset(), ("a",))


def images(source: Source, which: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in source.split(which).images_NCHW}


@pytest.mark.threat(44)
@pytest.mark.parametrize("seed", range(2))
def test_folder_that_grows(make_folder: Any, seed: int) -> None:
    """From 40 to 160 images a class no validation image becomes a training image or the other way round."""
    counts = {"a": 40, "b": 40, "c": 40, "d": 40}
    before = opened(make_folder(counts, name="few", seed=seed))
    train, val = images(before, "train"), images(before, "val")
    root = make_folder(counts, name="few", seed=seed)
    for number in range(3):
        more = make_folder(counts, name=f"more{number}", seed=seed)
        for path in more.rglob("*.png"):
            path.rename(root / path.parent.name / f"more{number}-{path.name}")
    after = opened(root)
    assert len(after.split("all")) == 640
    assert train <= images(after, "train")
    assert val <= images(after, "val")


def test_class_too_small_for_the_rule_is_named(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    source = opened(make_folder({"a": 2, "b": 60}))
    assert "may switch between training and validation when images are added: a" in logged.text
    assert len(source.split("val").labels_N) > 1


@pytest.mark.threat(44)
def test_copies_are_on_one_side(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """Of each image another one, in the other class too."""
    root = make_folder({"a": 20, "b": 20})
    for path in [*root.rglob("*.png")]:
        for name in ("a", "b"):
            (root / name / f"copy-{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    source = opened(root)
    assert not images(source, "train") & images(source, "val")
    assert "also training images" not in logged.text
