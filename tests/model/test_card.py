"""The card stored with the weights: the schema's fields only, and a model card in Markdown."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from pydantic import ValidationError

from pocket_resnet.model.card import Card, facts, front_matter, markdown, stated_accuracy
from pocket_resnet.model.spec import NetworkSpec

MakeCard = Callable[..., Card]


@pytest.fixture
def make_card(tiny_spec: NetworkSpec) -> MakeCard:
    def make(**changes: Any) -> Card:
        samples = {int: 7, float: 1.5, str: "x", bool: True}
        values = {name: samples.get(field.annotation) for name, field in Card.model_fields.items()}
        values |= {"format": 1, "spec": tiny_spec, "class_names": ("cat", "dog", "1"), "train_on": "train"}
        values |= {"weights": "fp32", "accuracy_two_views": None, "accuracy_six_views": None, "command": None}
        values |= {"accuracy": 0.875, "interval": (0.81, 0.92), "num_images": 5000, "num_params": 1234567}
        return Card(**values | {"recipe": "fast", "data": "cifar10", "split": "val"} | changes)

    return make


def test_card_round_trip(make_card: MakeCard) -> None:
    card = make_card()
    assert Card.model_validate_json(card.model_dump_json()) == card
    assert json.loads(card.model_dump_json())["class_names"] == ["cat", "dog", "1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"format": 0},
        {"num_params": "7"},
        {"accuracy": float("nan")},
        {"train_on": "test"},
        {"class_names": ("alone",)},
        {"class_names": ("cat", "")},
        {"class_names": ("cat", "x" * 256)},
    ],
)
def test_invalid_cards_are_refused(changes: dict[str, Any], make_card: MakeCard) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        make_card(**changes)


def test_model_card_states_accuracy_and_interval(make_card: MakeCard) -> None:
    text = markdown(make_card())
    assert "\n---\n\n# fast on cifar10\n" in text
    for statement in ("1,234,567 parameters", "87.50% of 5,000 images (val)", "81.00% to 92.00%", "`cat`, `dog`, `1`"):
        assert statement in text
    assert "no estimate" not in text
    assert "pocket-resnet evaluate" in text


def test_model_card_states_training_on_validation_images(make_card: MakeCard) -> None:
    assert "no estimate" in markdown(make_card(train_on="trainval"))


def test_many_classes_are_cut_short(make_card: MakeCard) -> None:
    text = markdown(make_card(class_names=tuple(f"class-{k}" for k in range(100))))
    assert "`class-19`, … and 80 more" in text
    assert "class-20" not in text


def test_card_of_a_released_model(make_card: MakeCard) -> None:
    released = make_card(weights="fp16", accuracy_six_views=0.8812, command="pocket-resnet train fast")
    text = markdown(released)
    assert "| accuracy, six views | 88.12% |" in text
    assert "| command | `pocket-resnet train fast` |" in text

    text = markdown(make_card())
    assert "six views" not in text
    assert "| weights | fp32 |" in text


def read(text: str) -> Any:
    """The front matter as YAML."""
    return yaml.safe_load(text.split("---\n")[1])


def test_front_matter_has_the_card_s_figures(make_card: MakeCard) -> None:
    """As the hub's own library reads them: split, number of images and the share of them."""
    card = make_card(caveat=None, accuracy_six_views=0.8812, accuracy=0.8752)
    data = ModelCard(markdown(card, "mit")).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "pocket-resnet", "image-classification")
    assert (data.datasets, data.metrics) == (["uoft-cs/cifar10"], ["accuracy"])
    single, six = data.eval_results
    assert (single.metric_type, single.metric_value, six.metric_value) == ("accuracy", 0.8752, 0.8812)
    assert single.metric_name == "accuracy, single view, 5,000 validation images"
    assert six.metric_name == "accuracy, six views, 5,000 validation images"
    for result in (single, six):
        assert (result.dataset_type, result.dataset_split) == ("uoft-cs/cifar10", "validation")
        assert (result.task_type, result.dataset_args) == ("image-classification", {"num_images": 5000})
    assert data.model_name == "fast on cifar10"


@pytest.mark.parametrize("changes", [{"train_on": "trainval", "caveat": None}, {"caveat": "some were trained on"}])
def test_front_matter_has_no_figures_of_images_trained_on(changes: dict[str, Any], make_card: MakeCard) -> None:
    assert "model-index" not in read(front_matter(make_card(**changes)))


@pytest.mark.threat(62)
@pytest.mark.parametrize("name", ["pictures/", 'a "b": c/', "---\nlicense: mit\n---\n", "é#x/", "/"])
def test_front_matter_of_odd_names(name: str, make_card: MakeCard) -> None:
    """They stay text, and the licence is unchanged."""
    matter = read(front_matter(make_card(data=name, recipe="- x: [", caveat=None)))
    assert matter["license"] == "unknown"
    assert "datasets" not in matter
    [entry] = matter["model-index"]
    assert entry["name"] == f"- x: [ on {name}"
    assert entry["results"][0]["dataset"]["name"] == (name.rstrip("/") or "/")


def test_the_accuracy_that_an_exported_file_states(make_card: MakeCard) -> None:
    """As a sentence, from which the numbers can be read back; other sentences have none."""
    assert stated_accuracy(facts(make_card(accuracy=0.93216))["accuracy"]) == (0.9322, "val", 5000)
    assert stated_accuracy(facts(make_card(accuracy=1.0))["accuracy"]) == (1.0, "val", 5000)
    for text in ("", "0.9", "very accurate", "0.9322 on many images (val)", "2.0000 on 1 images (val)"):
        assert stated_accuracy(text) is None
