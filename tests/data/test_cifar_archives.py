"""CIFAR is downloaded, or unpacked from an archive put there by hand, which stays unchanged."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocket_resnet.data import cifar, published
from pocket_resnet.data.datasets import open_source
from pocket_resnet.errors import DataError

FOLDERS = ["cifar-10-batches-bin", "cifar-10-batches-py"]


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path) -> ThreadingHTTPServer:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("POCKET_RESNET_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    return server


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_downloads_verifies_unpacks(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = request.getfixturevalue(name)
    layout = made.family.layouts[0]
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / layout.archive).write_bytes(made.archive(layout.folder))
    server = serve(monkeypatch, tmp_path / "www")
    sources = []
    threads = [
        threading.Thread(target=lambda: sources.append(open_source(name, data_dir=tmp_path / "data"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.shutdown()
    server.server_close()
    assert len(sources) == 3
    np.testing.assert_array_equal(sources[0].split("test").labels_N.numpy(), made.test_part[1])
    there = {path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock")}
    assert there == {layout.folder}
    stamps = json.loads((tmp_path / "data" / layout.folder / ".verified.json").read_text())
    assert set(stamps) == set(layout.members)


def test_archive_put_there_by_hand_is_unpacked_and_kept(cifar10: Any, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar10.archive(FOLDERS[1]))
    source = open_source("cifar10", data_dir=tmp_path, download=False)
    assert len(source.split("val")) == 10
    assert (tmp_path / "cifar-10-python.tar.gz").exists()


def test_remains_of_a_killed_process_are_removed(cifar10: Any, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar10.archive(FOLDERS[1]))
    staged = tmp_path / f".tmp-{FOLDERS[1]}"
    staged.mkdir()
    (staged / ".tmp-7-data_batch_1").write_bytes(b"half")
    open_source("cifar10", data_dir=tmp_path, download=False)
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.threat(26)
@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_wrong_archive_put_there_by_hand_stays(
    cifar10: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, download: bool
) -> None:
    """Neither replaced nor deleted, also where the right one could be downloaded."""
    layout = cifar10.family.layouts[number]
    (tmp_path / "www").mkdir()
    for official in cifar10.family.layouts:
        (tmp_path / "www" / official.archive).write_bytes(cifar10.archive(official.folder))
    server = serve(monkeypatch, tmp_path / "www")
    path = tmp_path / layout.archive
    path.write_bytes(b"half")
    md5 = hashlib.md5(b"half").hexdigest()
    for _ in range(2):
        with pytest.raises(DataError, match=f"wrong MD5: it is {md5}, {layout.archive_md5} is published") as raised:
            open_source("cifar10", data_dir=tmp_path, download=download)
        assert raised.value.exit_code == 3
        assert str(path) == str(raised.value.where)
        assert "remove it" in str(raised.value.hint)
        assert path.read_bytes() == b"half"
    path.rename(tmp_path / "elsewhere")
    if download:
        assert len(open_source("cifar10", data_dir=tmp_path).split("val")) == 10
    server.shutdown()
    server.server_close()


@pytest.mark.threat(26)
def test_wrong_file_put_there_by_hand_stays(cifar10: Any, tmp_path: Path) -> None:
    """A test batch without the other files, while the archive is unpacked beside it."""
    folder = tmp_path / FOLDERS[1]
    folder.mkdir()
    (folder / "test_batch").write_bytes(b"mine")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar10.archive(FOLDERS[1]))
    with pytest.raises(DataError, match="test_batch: wrong MD5"):
        open_source("cifar10", data_dir=tmp_path, download=False)
    assert (folder / "test_batch").read_bytes() == b"mine"


@pytest.mark.usefixtures("cifar10")
def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar10 is not in this folder"):
        open_source("cifar10", data_dir=tmp_path, download=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"half")
    with pytest.raises(DataError, match=f"wrong MD5: it is {hashlib.md5(b'half').hexdigest()}"):
        open_source("cifar10", data_dir=tmp_path, download=False)


def test_mirror_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = published.CIFAR10.layouts[0]
    assert cifar.urls(layout) == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
    monkeypatch.setenv("POCKET_RESNET_MIRROR", "http://a/b http://c/")
    assert cifar.urls(layout) == ["http://a/b/cifar-10-binary.tar.gz", "http://c/cifar-10-binary.tar.gz"]
