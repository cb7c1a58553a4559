"""Model directories: the same logits after a round trip; everything else is refused, with the file named."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.io.files import SUMS_NAME, write_folder
from pocket_resnet.model import artifact
from pocket_resnet.model.artifact import find_model, folder_name, load_card, load_model, resume_command, save_model
from pocket_resnet.model.card import FORMAT, Card, markdown
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture
def make_card(tiny_spec: NetworkSpec) -> Callable[..., Card]:
    def make(**changes: Any) -> Card:
        values: dict[str, Any] = {
            "version": "0.1.0",
            "spec": tiny_spec,
            "class_names": ("1", "10", "2"),
            "num_params": num_params(tiny_spec),
            "num_macs": num_macs(tiny_spec),
            "data": "digits",
            "flip_invariant": False,
            "train_on": "train",
            "recipe": "tiny",
            "seed": 0,
            "epochs": 2,
            "steps": 4,
            "train_flops": 10**9,
            "seconds": 1.5,
            "machine": "x",
            "split": "val",
            "num_images": 6,
            "accuracy": 0.5,
            "interval": (0.2, 0.8),
        }
        return Card(**(values | changes))

    return make


@pytest.fixture
def folder(tmp_path: Path, tiny_model: ResNet, make_card: Callable[..., Card]) -> Path:
    tiny_model(torch.rand(4, 3, 8, 8))  # so that batch norm has statistics
    save_model(tmp_path / "model", tiny_model, make_card())
    return tmp_path / "model"


def forge(folder: Path, **config: Any) -> None:
    """Other values in config.json, with matching sums."""
    values = json.loads((folder / CONFIG).read_text()) | config
    write_folder(folder, {WEIGHTS: (folder / WEIGHTS).read_bytes(), CONFIG: json.dumps(values).encode()})


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as raised:
        load_model(folder)
    assert raised.value.exit_code == 4
    return str(raised.value)


@pytest.mark.threat(20)
@pytest.mark.parametrize("channels_last", [False, True])
def test_round_trip(channels_last: bool, tiny_model: ResNet, make_card: Callable[..., Card], tmp_path: Path) -> None:
    """Also the classes in their order, 1, 10, 2."""
    x_BCHW = torch.rand(4, 3, 8, 8)
    model = tiny_model.to(memory_format=torch.channels_last) if channels_last else tiny_model
    model(x_BCHW)
    save_model(tmp_path / "model", model, make_card())
    loaded, card = load_model(tmp_path / "model")
    assert not loaded.training
    assert torch.equal(loaded(x_BCHW), model.to(memory_format=torch.contiguous_format).eval()(x_BCHW))
    assert card == make_card() == load_card(tmp_path / "model")
    assert card.class_names == ("1", "10", "2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", SUMS_NAME, CONFIG, "model", WEIGHTS]


def test_a_run_folder_can_be_loaded(folder: Path, tmp_path: Path) -> None:
    assert find_model(tmp_path) == find_model(folder) == folder
    with pytest.raises(UsageError, match="no model here"):
        find_model(tmp_path / "other")
    (tmp_path / "run x" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="is not finished") as raised:
        find_model(tmp_path / "run x")
    assert resume_command(tmp_path / "run x") in str(raised.value)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/runs/r/model", "r"),
        ("/models/pocket-1m", "pocket-1m"),
        ("/model", "model"),
        ("/runs/model/model", "model"),
        (f"/hub/ann/tiny/{'0a' * 20}", "tiny"),
        (f"/hub/ann/model/{'0a' * 20}", "model"),
    ],
)
def test_name(folder: str, name: str) -> None:
    """Of a run, a released model, a copy anywhere, a model on the hub."""
    assert folder_name(Path(folder)) == name


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "recipe.toml").touch()
    with pytest.raises(UsageError, match="this run has no model and no checkpoint yet") as raised:
        find_model(tmp_path / "r")
    assert resume_command(tmp_path / "r") in str(raised.value)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(UsageError, match=r"pocket-resnet serve .*x\.onnx"):
        find_model(tmp_path / "x.onnx")


def test_resume_command() -> None:
    command = "pocket-resnet train runs/r/recipe.toml --resume --run r"
    assert resume_command(Path("runs/r")) == command
    command_elsewhere = resume_command(Path("my runs/r"))
    assert command_elsewhere == "pocket-resnet train 'my runs/r/recipe.toml' --resume --run r --runs-dir 'my runs'"


@pytest.mark.threat(6, 30)
@pytest.mark.parametrize("member", [WEIGHTS, CONFIG, SUMS_NAME])
@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped", "link to itself"])
def test_damage_is_named(member: str, damage: str, folder: Path) -> None:
    path = folder / member
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "link to itself":
        path.symlink_to(path)
    elif damage != "deleted":
        content[random.Random(0).randrange(len(content) // 2)] ^= 1
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage in ("deleted", "link to itself") and member == CONFIG:  # nothing says that this is a model
        with pytest.raises(UsageError, match="no model here"):
            load_model(folder)
    else:
        assert str(folder) in refusal(folder)
        assert member in refusal(folder) or member == SUMS_NAME


def test_card_may_be_edited_by_hand(folder: Path) -> None:
    before = load_model(folder)[1]
    (folder / "README.md").write_text("mine")
    assert load_model(folder)[1] == before


@pytest.mark.threat(10)
def test_newer_format(folder: Path) -> None:
    """The error names the version to upgrade to, even if the newer layout has other fields."""
    forge(folder, format=FORMAT + 1, version="9.8", something="new")
    assert f"model format {FORMAT + 1} is newer" in refusal(folder)
    assert "upgrade pocket-resnet to 9.8 or later" in refusal(folder)


WRONG: dict[str, dict[str, Any]] = {
    "too few classes": {"class_names": ["a", "b"]},
    "the same class twice": {"class_names": ["a", "b", "a"]},
    "empty name": {"class_names": ["a", "b", ""]},
    "classes are no list": {"class_names": "abc"},
    "no number": {"num_images": "6"},
    "unknown field": {"colour": "red"},
    "hostile network": {"spec": {"widths": [10**9, 1]}},
    "impossible network": {"spec": {"widths": [8]}},
    "unknown option": {"spec": {"stem": "eval"}},
    "no network": {"spec": None},
    "format 0": {"format": 0},
    "format true": {"format": True},
    "NaN": {"accuracy": float("nan")},
}


@pytest.mark.threat(30)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_config(case: str, folder: Path) -> None:
    """A schema error that names the file, in one line, and below it how to fix it."""
    forge(folder, **WRONG[case])
    message = refusal(folder)
    assert str(folder / CONFIG) in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b"{}"])
def test_config_that_is_no_object(content: bytes, folder: Path) -> None:
    write_folder(folder, {WEIGHTS: (folder / WEIGHTS).read_bytes(), CONFIG: content})
    assert "not a model's configuration" in refusal(folder)


def huge_header() -> bytes:
    return (2**62).to_bytes(8, "little") + b"{" + bytes(100_000)


def overlapping() -> bytes:
    header = json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in ("a", "b")}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(100_000)


@pytest.mark.threat(30)
@pytest.mark.parametrize("content", [b"", b"x", huge_header(), overlapping(), bytes(10_000)])
def test_hostile_weights(content: bytes, folder: Path) -> None:
    write_folder(folder, {WEIGHTS: content, CONFIG: (folder / CONFIG).read_bytes()})
    assert str(folder / WEIGHTS) in refusal(folder)


@pytest.mark.threat(30)
@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_weights_of_another_network(change: str, folder: Path) -> None:
    weights = load((folder / WEIGHTS).read_bytes())
    if change == "missing":
        del weights["head.bias"]
    else:
        weights["extra" if change == "more" else "head.bias"] = torch.zeros(7)
    write_folder(folder, {WEIGHTS: save(weights), CONFIG: (folder / CONFIG).read_bytes()})
    assert "not the weights of this network" in refusal(folder)


@pytest.mark.threat(30)
def test_small_file_cannot_ask_for_a_large_network(folder: Path) -> None:
    """Otherwise a config of a few bytes would allocate gigabytes."""
    spec = json.loads((folder / CONFIG).read_text())["spec"] | {"widths": [60_000, 60_000]}
    forge(folder, spec=spec)
    assert "too small for the network" in refusal(folder)


def test_card_as_markdown(make_card: Callable[..., Card]) -> None:
    text = markdown(make_card())
    assert "| accuracy, single view, last epoch | 50.00% of 6 images (val) |" in text
    assert "`1`, `10`, `2`" in text
    assert "trained on these images" not in text
    assert "trained on these images" in markdown(make_card(train_on="trainval"))


def test_half_precision_is_half_the_bytes(tmp_path: Path, tiny_model: ResNet, make_card: Callable[..., Card]) -> None:
    """Parameters are rounded; statistics and preprocessing are unchanged; the network computes in fp32."""
    for weights in ("fp32", "fp16"):
        save_model(tmp_path / weights, tiny_model, make_card(weights=weights))
    sizes = [(tmp_path / weights / WEIGHTS).stat().st_size for weights in ("fp32", "fp16")]
    assert sizes[0] - sizes[1] >= 2 * num_params(tiny_model.spec) * 0.95
    model, _ = load_model(tmp_path / "fp16")
    parameters = dict(tiny_model.named_parameters())
    for name, value in tiny_model.state_dict().items():
        expected = value.half().float() if name in parameters else value
        assert torch.equal(model.state_dict()[name], expected)
        assert model.state_dict()[name].dtype == value.dtype


def test_released_model_that_the_package_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The listed models are those in models/ except the packaged one."""
    checkout = {path.parent.name for path in Path(__file__).parents[2].glob("models/*/config.json")}
    assert set(artifact.NOT_PACKAGED) == checkout - {"pocket-100k"}
    monkeypatch.setattr(artifact, "released", lambda: {"pocket-100k": tmp_path})
    with pytest.raises(UsageError, match=r"not in the package\n  clone the repository.*, or use pocket-100k$"):
        artifact.find_model(Path("pocket-5m"))


def test_released_model_by_name(
    tiny_model: ResNet, make_card: Callable[..., Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the package and in a checkout, but not if another path has that name."""
    card = make_card()
    package, checkout = tmp_path / "src" / "package", tmp_path / "models"
    monkeypatch.setattr(artifact, "__file__", str(package / "model" / "artifact.py"))
    monkeypatch.chdir(tmp_path)
    for folder in (package / "models" / "small", checkout / "small", checkout / "large"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_model(folder, tiny_model, card)
    assert find_model(Path("small")) == package / "models" / "small"
    assert find_model(Path("large")) == checkout / "large"
    assert load_model(Path("large"))[1] == card
    with pytest.raises(UsageError, match="no model here") as raised:
        find_model(Path("medium"))
    assert raised.value.hint is not None
    assert raised.value.hint.endswith("or a released model: large, small")
    with pytest.raises(UsageError, match="no model here, did you mean `large`") as raised:
        find_model(Path("lar-ge"))
    Path("cat.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cat\.jpg: this file is not a model\n .*a released model: large, small"):
        find_model(Path("cat.jpg"))
    (tmp_path / "large").mkdir()
    with pytest.raises(UsageError):
        find_model(Path("large"))
