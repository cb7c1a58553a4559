"""Reading a finished run: its augmented images, its mistakes in order, its command."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Batch, Loader
from pocket_resnet.errors import DataError, UsageError
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.reporting.report import write_report
from pocket_resnet.training import saved_run
from pocket_resnet.training.run import train

Trained = Callable[..., Path]


def test_other_images_are_not_compared(train_hostile: Trained, synthetic: Any) -> None:
    one = saved_run.read_run(train_hostile("a"), saved_run.opener(None))
    synthetic.fingerprint = "synthetic-2"
    other = saved_run.read_run(train_hostile("b"), saved_run.opener(None))
    assert saved_run.same_images(one, one)
    assert not saved_run.same_images(one, other)
    again = saved_run.read_run(one.path, saved_run.opener(None), "synthetic")
    assert "The data has changed since this run." in again.notices
    with pytest.raises(DataError, match="differ from those it was trained on"):
        saved_run.read_run(one.path, saved_run.opener(None))


@pytest.mark.usefixtures("synthetic")
def test_only_an_evaluation_of_the_validation_images_replaces_the_run_s(train_hostile: Trained) -> None:
    path = train_hostile("a")
    measured = saved_run.read_run(path, saved_run.opener(None)).evaluation
    assert saved_run.read_run(path, saved_run.opener(None), evaluation=measured).evaluation is measured
    for changes in ({"split": "train"}, {"precision": "bf16"}, {"views": 2}, {"labels_N": measured.labels_N[1:]}):
        other = replace(measured, **changes)
        with pytest.raises(UsageError, match="not one of the run's validation images in fp32"):
            saved_run.read_run(path, saved_run.opener(None), evaluation=other)
    with pytest.raises(UsageError, match="several runs have no common one"):
        write_report([path, train_hostile("b")], evaluation=measured)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_steps": 3},
        {
            "train_image_sizes": (),
            "augment": {"mixup": 0.0, "cutmix": 1.0, "trivial_augment": True, "random_erasing": 0.5},
        },
        {"augment": {"mixup": 0.0, "crop_px": 0, "flip": "none"}},
    ],
)
def test_augmented_batch_is_the_trainer_s(
    changes: dict[str, Any], train_hostile: Trained, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Loader.batch really gave in the first step of the last epoch."""
    given: dict[int, torch.Tensor] = {}
    whole = Loader.batch

    def noting(self: Loader, step: int) -> Batch:
        batch = whole(self, step)
        given.setdefault(step, batch.x_BCHW)
        return batch

    monkeypatch.setattr(Loader, "batch", noting)
    run = saved_run.read_run(train_hostile("r", **changes), saved_run.opener(None))
    pixels_BHWC, labels, step, _ = saved_run.last_epochs_first_batch(run, 6)
    assert step == 2  # of 2 epochs of 2 steps
    expected_BHWC = (given[step][:6] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(pixels_BHWC, expected_BHWC)
    assert len(labels) == 6
    assert source.class_names != run.source.class_names  # hostile ones


def test_students_batch_has_its_teachers_view(train_hostile: Trained) -> None:
    """With one epoch of views, the last epoch repeats the first one's."""
    teacher = {"model": str(train_hostile("teacher")), "epochs": 1}
    plain: dict[str, Any] = {"augment": {"mixup": 0.0, "flip": "random"}, "train_image_sizes": ()}
    run = saved_run.read_run(train_hostile("r", teacher=teacher, **plain), saved_run.opener(None))
    pixels_BHWC, _, step, _ = saved_run.last_epochs_first_batch(run, 8)
    loader = Loader(run.source.split("train"), run.recipe, run.hardware, run.model.normalize.mean)
    first_NCHW = torch.cat(list(loader.views(0)))
    assert torch.equal(pixels_BHWC, first_NCHW[loader.indices(step)].permute(0, 2, 3, 1))


@pytest.mark.parametrize(("until", "share"), [(1.0, 0.6), (0.5, 1.0)])
def test_batch_of_which_the_hardest_were_trained(until: float, share: float, train_hostile: Trained) -> None:
    """14 images in steps of 8 of 13; in the second half of the run, where this step is, possibly all of them."""
    plain = {"augment": {"mixup": 0.0}, "train_image_sizes": ()}
    run = saved_run.read_run(train_hostile("r", hard_fraction=0.6, hard_until=until, **plain), saved_run.opener(None))
    pixels_BHWC, labels, step, batch_share = saved_run.last_epochs_first_batch(run, 20)
    assert (len(pixels_BHWC), len(labels), step, batch_share) == (13, 13, 1, share)
    sentence = "Of these and other images, the step trained on the 60% with the highest losses."
    assert (sentence in write_report(run.path).read_text(encoding="utf-8")) == (share < 1)


def test_command_names_the_recipe_where_possible(tmp_path: Path) -> None:
    quick = {"data.name": "digits", "min_steps": 0, "epochs": 1, "hardware.num_threads": 1, "norm_images": 8}
    fast = load_recipe("fast")
    small = override(fast, quick | {"model.widths": (4, 4, 4), "model.stem_width": 4})
    train(small, runs_dir=tmp_path, run="r")
    run = saved_run.read_run(tmp_path / "r", saved_run.opener(None))
    assert saved_run.command(run) == f"pocket-resnet train {tmp_path}/r/recipe.toml"
    source = open_source("digits")
    resolved = saved_run.fit_to_data(override(fast, {"data.name": "digits", "seed": 3}), source, 1197)
    run.recipe = resolved
    assert saved_run.command(run) == "pocket-resnet train fast --data digits --seed 3 --max-steps 3"  # ended early
    run.result = replace(run.result, epochs_done=resolved.epochs)
    assert saved_run.command(run) == "pocket-resnet train fast --data digits --seed 3"
    run.recipe = override(resolved, {"seed": 0, "data.seed": 0})
    assert saved_run.command(run) == "pocket-resnet train fast --data digits --data.seed 0"
    assert saved_run.without_seed(run.recipe) == saved_run.without_seed(resolved)
