"""A subset as a folder: so many images of each class, the same pixels, the same validation images, no test images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.folder import Folder
from tools import subset
from tools.subset import write_subset


def test_a_subset_is_a_folder_of_the_same_pixels(source: Any, tmp_path: Path) -> None:
    assert write_subset(source, 7, tmp_path / "subset") == 6
    folder = Folder(tmp_path / "subset", data_dir=tmp_path / "data", image_size=8, num_workers=1)
    assert set(folder.class_names) == set(source.class_names)
    assert (len(folder.split("train")), len(folder.split("val"))) == (6, len(source.split("val")))
    images = {bytes(image.numpy()) for image in source.split("train").images_NCHW}
    assert {bytes(image.numpy()) for image in folder.split("train").images_NCHW} < images
    assert torch.bincount(folder.split("train").labels_N).tolist() == [2, 2, 2]
    assert source.num_test_opened == 0


def test_the_command_refuses_a_folder_with_files_and_too_few_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of an earlier, larger subset would stay."""
    monkeypatch.setattr("sys.argv", ["subset.py", "digits", "20", str(tmp_path / "subset")])
    subset.main()
    assert capsys.readouterr().out == f"{tmp_path}/subset: 20 training images\n"
    with pytest.raises(SystemExit, match="subset: not empty"):
        subset.main()
    monkeypatch.setattr("sys.argv", ["subset.py", "digits", "9", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="9 images are fewer than the 10 classes"):
        subset.main()
