"""Batches: every sample once an epoch, in an order that depends on seed and epoch alone; augmented by step alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pocket_resnet.data.loader import Loader, Steps, epoch_order
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware
from pocket_resnet.errors import UsageError
from pocket_resnet.recipe.schema import Recipe

CPU = Hardware(torch.device("cpu"), "fp32", channels_last=True)


@pytest.fixture
def make_loader(make_recipe: Callable[..., Recipe], source: Source) -> Callable[..., Loader]:
    """make_loader(batch_size=4): of the 14 synthetic training images; pixels are blanked grey."""

    def make(use_selection: bool = True, **changes: Any) -> Loader:
        mean_C11 = torch.full((3, 1, 1), 0.5)
        return Loader(source.split("train"), make_recipe(**changes), CPU, mean_C11, use_selection=use_selection)

    return make


def steps_of(
    num_samples: int, batch_size: int, hard_fraction: float = 1.0, until: float = 1.0, epochs: int = 1
) -> Steps:
    recipe = Recipe(batch_size=batch_size, epochs=epochs, hard_until=until)
    # model_copy skips validation, which refuses a hard_fraction that drops no image
    return Steps(num_samples, recipe.model_copy(update={"hard_fraction": hard_fraction}))


@given(num_samples=st.integers(1, 300), batch_size=st.integers(1, 300), epoch=st.integers(0, 99), seed=st.integers(0))
def test_each_sample_once(num_samples: int, batch_size: int, epoch: int, seed: int) -> None:
    """Except one image that would be a batch of its own; all batches but the last are full."""
    assume(batch_size <= num_samples)
    order_N, steps = epoch_order(num_samples, seed, epoch), steps_of(num_samples, batch_size)
    first = epoch * steps.per_epoch
    batches = [steps.candidates(order_N, first + step).tolist() for step in range(steps.per_epoch)]
    seen = [index for batch in batches for index in batch]
    num_dropped = int(num_samples % batch_size == 1 and batch_size > 1)
    assert len(seen) == len(set(seen)) == num_samples - num_dropped
    assert set(seen) <= set(range(num_samples))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) > 1 or batch_size == 1


def test_order_depends_on_seed_and_epoch() -> None:
    first = epoch_order(50, 0, 0)
    assert torch.equal(first, epoch_order(50, 0, 0))
    for seed, epoch in ((0, 1), (1, 0), (0, 10)):
        assert not torch.equal(first, epoch_order(50, seed, epoch))


def test_the_dropped_image_is_another_one_each_epoch() -> None:
    assert len({int(epoch_order(11, 0, epoch)[-1]) for epoch in range(20)}) > 3


@pytest.mark.threat(15)
def test_batch_beyond_the_data() -> None:
    assert steps_of(5, 5).per_epoch == 1
    with pytest.raises(UsageError, match="batch_size 6 exceeds the 5 training images"):
        steps_of(5, 6)
    with pytest.raises(UsageError, match=r"with hard_fraction 0\.5 looks at 8 images and exceeds the 7") as raised:
        steps_of(7, 4, 0.5)
    assert raised.value.hint == "use a smaller one, for example --batch-size 2"
    assert steps_of(7, 2, 0.5).per_epoch == 2


@given(num_samples=st.integers(40, 300), batch_size=st.integers(2, 40), hard_fraction=st.floats(0.05, 1))
def test_number_of_trained_images(num_samples: int, batch_size: int, hard_fraction: float) -> None:
    """Whole batches but for the last of an epoch, which trains its share of what is left."""
    assume(round(batch_size / hard_fraction) <= num_samples)
    steps = steps_of(num_samples, batch_size, hard_fraction)
    num_trained = [steps.num_trained(step) for step in range(steps.per_epoch)]
    assert num_trained[:-1] == [batch_size] * (steps.per_epoch - 1)
    left = len(steps.candidates(torch.arange(num_samples), steps.per_epoch - 1))
    assert num_trained[-1] == pytest.approx(max(min(2, left), left * hard_fraction), abs=0.5)


@given(hard_fraction=st.floats(0.05, 0.9), until=st.floats(0.01, 1), epochs=st.integers(1, 9))
def test_steps_train_all_candidates_after_hard_until(hard_fraction: float, until: float, epochs: int) -> None:
    steps = steps_of(600, 20, hard_fraction, until, epochs)
    shares = [steps.trained_fraction(step) for step in range(steps.total)]
    num_chosen = round(until * steps.total)
    assert shares == [hard_fraction] * num_chosen + [1.0] * (steps.total - num_chosen)
    order_N = torch.arange(600)
    assert all(
        steps.num_trained(step) == len(steps.candidates(order_N, step)) for step in range(num_chosen, steps.total)
    )


@pytest.mark.parametrize(
    ("train_image_sizes", "num_steps", "sizes"),
    [
        ((), 8, [32] * 8),
        ((16, 24, 24, 32), 8, [16, 16, 24, 24, 24, 24, 32, 32, 32]),
        ((16, 32), 5, [16, 16, 16, 32, 32]),
        ((16, 24, 32), 2, [16, 24]),
    ],
)
def test_image_sizes_in_equal_parts(train_image_sizes: tuple[int, ...], num_steps: int, sizes: list[int]) -> None:
    steps = Steps(2, Recipe(batch_size=2, epochs=num_steps, train_image_sizes=train_image_sizes))
    assert [steps.image_size(step) for step in range(len(sizes))] == sizes


def test_batches_have_the_current_image_size(make_loader: Callable[..., Loader]) -> None:
    loader = make_loader()
    sizes = []
    for step in range(4):
        batch = loader.batch(step)
        sizes.append((tuple(batch.x_BCHW.shape), len(batch), len(batch.targets.labels_B)))
        assert batch.x_BCHW.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= batch.x_BCHW.min() <= batch.x_BCHW.max() <= 1
    assert sizes == [((8, 3, 6, 6), 8, 8), ((6, 3, 6, 6), 6, 6), ((8, 3, 8, 8), 8, 8), ((6, 3, 8, 8), 6, 6)]


def test_batch_is_a_function_of_the_step(make_loader: Callable[..., Loader]) -> None:
    """Also for a loader that begins in the middle, as after a resume."""
    whole, middle = make_loader(), make_loader()
    batches = [whole.batch(step).x_BCHW for step in range(4)]
    assert torch.equal(middle.batch(3).x_BCHW, batches[3])
    assert torch.equal(middle.batch(0).x_BCHW, batches[0])


@pytest.mark.parametrize("train_image_sizes", [(), (6, 8)])
def test_images_augmented_ahead_are_those_of_each_step(
    make_loader: Callable[..., Loader], train_image_sizes: tuple[int, ...]
) -> None:
    """As on a GPU: several steps' images at once, across the ends of epochs and changes of image size."""
    augment = {"crop_px": 2, "flip": "random", "trivial_augment": True, "random_erasing": 0.5, "cutmix": 1.0}
    stepwise, ahead = (
        make_loader(augment=augment, train_image_sizes=train_image_sizes, epochs=3, batch_size=4) for _ in range(2)
    )
    ahead.steps_ahead = 5
    for step in (*range(ahead.steps.total), 2, 9):
        one, same = stepwise.batch(step), ahead.batch(step)
        assert torch.equal(one.x_BCHW, same.x_BCHW), step
        assert torch.equal(one.targets.labels_B, same.targets.labels_B)
        assert torch.equal(one.targets.others_B, same.targets.others_B)
        assert one.targets.label_weight == same.targets.label_weight


def test_norms_are_measured_on_images_as_the_last_epoch_trained_them(make_loader: Callable[..., Loader]) -> None:
    """Augmented as in that epoch, but at full size; of too few images there is no batch."""
    augment = {
        "crop_px": 2,
        "flip": "random",
        "trivial_augment": True,
        "random_erasing": 0.5,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
    loader = make_loader(augment=augment, train_image_sizes=(6, 8), epochs=4, batch_size=7)
    last_epoch = torch.cat([loader.batch(step).x_BCHW for step in (6, 7)])
    order_N = torch.cat([loader.indices(step) for step in (6, 7)])
    [x_NCHW] = loader.norm_batches(order_N, step=7)
    assert torch.equal(x_NCHW, last_epoch)
    [early_NCHW] = loader.norm_batches(order_N, step=1)
    assert early_NCHW.shape == x_NCHW.shape
    assert not torch.equal(early_NCHW, x_NCHW)
    assert list(loader.norm_batches(order_N[:1], step=7)) == []


def test_loader_returns_all_candidates_after_hard_until(make_loader: Callable[..., Loader]) -> None:
    """14 images, of which a step looks at 10 or 4; the hard_fraction 80% are trained in the first half of the run."""
    changes: Any = {"hard_fraction": 0.8, "hard_until": 0.5, "batch_size": 8, "epochs": 2, "augment": {"mixup": 0.0}}
    assert [len(make_loader(**changes).indices(step)) for step in range(4)] == [8, 3, 10, 4]
    assert [len(make_loader(use_selection=False, **changes).indices(step)) for step in range(4)] == [10, 4, 10, 4]


def test_a_teachers_views_repeat(make_loader: Callable[..., Loader]) -> None:
    """Order and mixing do not repeat; without a teacher every epoch has its own views."""
    for section, repeats in (({"model": "somewhere", "epochs": 2}, True), ({}, False)):
        loader = make_loader(epochs=4, augment={"flip": "random"}, teacher=section)
        first_NCHW, second_NCHW, third_NCHW = (torch.cat(list(loader.views(epoch))) for epoch in range(3))
        assert first_NCHW.shape == (14, 3, 8, 8)
        assert not torch.equal(first_NCHW, second_NCHW)
        assert torch.equal(first_NCHW, third_NCHW) == repeats
        assert not torch.equal(loader.indices(0), loader.indices(4))


def test_after_distort_until_images_are_only_cropped_and_flipped(make_loader: Callable[..., Loader]) -> None:
    """And learned from their labels alone, with views of their own; before, nothing changes."""
    off = {"trivial_augment": False, "cutout_px": 0, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}
    strong = {"trivial_augment": True, "cutout_px": 2, "random_erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}
    teacher, asked = {"model": "somewhere", "epochs": 1}, []

    def logits(epoch: int, num_images: int, _: Any) -> torch.Tensor:
        asked.append(epoch)
        return torch.zeros(num_images, 10)

    def loader_of(augment: dict[str, Any], **teacher: Any) -> Loader:
        loader = make_loader(epochs=4, batch_size=14, augment=augment, teacher=teacher)
        loader.teacher_logits = logits if teacher else None
        return loader

    both, always, never = (
        loader_of(strong | {"distort_until": 0.5}, **teacher),
        loader_of(strong, **teacher),
        loader_of(off),
    )
    for step in range(4):
        batch, same = both.batch(step), (always if step < 2 else never).batch(step)
        assert torch.equal(batch.x_BCHW, same.x_BCHW)
        assert (batch.targets.teacher_BK is not None) == (step < 2)
        assert batch.targets.label_weight == same.targets.label_weight
    assert asked == [0, 0]
