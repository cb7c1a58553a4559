"""Processes that need the same predictions of a teacher: one computes, the others wait. The name of their cache."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.augment import to_float
from pocket_resnet.data.source import Source
from pocket_resnet.device import choose
from pocket_resnet.errors import Stopped
from pocket_resnet.io.locks import exclusive
from pocket_resnet.model.artifact import load_model
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.sections import AugmentRecipe
from pocket_resnet.training.callbacks import Callback, RunState
from pocket_resnet.training.run import train
from pocket_resnet.training.teacher import Teacher, cache_name


@pytest.fixture
def held(start_child: Any) -> Callable[[Path], Callable[[], None]]:
    """held(path) locks the path in another process, and returns what releases it."""

    def lock(path: Path) -> Callable[[], None]:
        locked, done = os.pipe(), os.pipe()

        def hold() -> None:
            with exclusive(path):
                os.write(locked[1], b"x")
                os.read(done[0], 1)

        child = start_child(hold)
        os.read(locked[0], 1)

        def release() -> None:
            os.write(done[1], b"x")
            assert child.wait() == 0

        return release

    return lock


@pytest.mark.threat(69)
def test_one_process_computes_and_another_reads(held: Any, start_child: Any, trained: Path, tmp_path: Path) -> None:
    model, images_NCHW = load_model(trained)[0], torch.randint(0, 256, (4, 3, 8, 8)).to(torch.uint8)
    with torch.no_grad():
        expected_NK = model(to_float(images_NCHW))
    pipes = [os.pipe(), os.pipe()]

    def work(pipe: int) -> None:
        teacher = Teacher(
            model,
            [0, 1, 2],
            tmp_path / "t",
            choose("cpu", "fp32"),
            1,
            lambda _, text: os.write(pipe, b"w" if "waiting for another process" in text else b"c"),
        )
        logits_NK = teacher.logits(0, 4, lambda: [images_NCHW])
        torch.testing.assert_close(logits_NK, expected_NK, atol=2e-3, rtol=1e-3)

    release = held(tmp_path / "t" / "epoch-0000")
    children = [start_child(lambda pipe=pipe: work(pipe[1])) for pipe in pipes]
    for _, end in pipes:
        os.close(end)
    assert [os.read(pipe, 1) for pipe, _ in pipes] == [b"w", b"w"]
    release()
    assert [child.wait() for child in children] == [0, 0]
    watched = b"".join(os.read(pipe, 10_000) for pipe, _ in pipes)
    assert watched.count(b"c") == 1  # a single batch, of one of them


class KillOnce(Callback):
    """Sends a signal while the checkpoint of a step is written: it takes effect after the next step."""

    def __init__(self, step: int) -> None:
        self.step: int | None = step

    def on_checkpoint(self, run: RunState, path: Path) -> None:  # noqa: ARG002
        if run.step == self.step:
            self.step = None
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.threat(69)
def test_a_signal_ends_the_wait(
    held: Any,
    make_recipe: Callable[..., Recipe],
    trained: Path,
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
) -> None:
    recipe = make_recipe(teacher={"model": str(trained)})
    train(recipe, runs_dir=tmp_path, run="whole")
    [second] = tmp_path.glob("data/teachers/*/epoch-0001")
    shutil.rmtree(second)
    logged.clear()
    release = held(second)
    with pytest.raises(Stopped, match=r"saving step 2; the teacher's predictions for 1 epoch\(s\) are cached"):
        train(recipe, runs_dir=tmp_path, run="cut", callbacks=[KillOnce(2)])
    assert "computing" not in logged.text
    release()
    assert train(recipe, runs_dir=tmp_path, run="cut", resume=True).steps == 4
    assert "computing the teacher's predictions for epoch 2 of 2" in logged.text


WITHOUT_VIEWS = ("mixup", "cutmix", "distort_until")  # settings that change no teacher's view


def test_name_of_the_cache(make_recipe: Callable[..., Recipe], source: Source) -> None:
    """It is the same for all versions, and differs for each setting that changes the views."""

    def name(**augment: Any) -> str:
        return cache_name(make_recipe(seed=3, teacher={"model": "t", "sha256": "5a" * 32}, augment=augment), source)

    assert name() == "5a5a5a5a5a5a-965dfd098399e89e267e6a61"
    assert name(mixup=0.3, cutmix=1.0) == name()
    other = AugmentRecipe(
        normalize=False,
        crop_px=3,
        crop_fill="reflect",
        flip="none",
        trivial_augment=True,
        cutout_px=3,
        random_erasing=0.5,
    )
    names = {key: name(**{key: value}) for key, value in other if key not in WITHOUT_VIEWS}
    assert len({name(), *names.values()}) == 1 + len(AugmentRecipe.model_fields) - len(WITHOUT_VIEWS)


def test_name_of_the_cache_of_a_fine_tuned_student(make_recipe: Callable[..., Recipe], source: Source) -> None:
    """Its blanked pixels have the colour of the pretrained model's data."""

    def name(sha256: str | None, random_erasing: float) -> str:
        pretrained = {} if sha256 is None else {"model": "p", "sha256": sha256 * 32}
        augment = {"random_erasing": random_erasing, "cutout_px": 0}
        teacher = {"model": "t", "sha256": "5a" * 32}
        return cache_name(make_recipe(teacher=teacher, augment=augment, pretrained=pretrained), source)

    assert len({name(None, 0.1), name("b0", 0.1), name("b1", 0.1)}) == 3
    assert len({name(None, 0), name("b0", 0), name("b1", 0)}) == 1
