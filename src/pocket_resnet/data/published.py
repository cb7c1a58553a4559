"""The official CIFAR-10 and CIFAR-100: archives, files, MD5s, class names, counts.

Source: https://www.cs.toronto.edu/~kriz/cifar.html; A. Krizhevsky, Learning Multiple Layers of Features from
Tiny Images, 2009.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pocket_resnet.data.records import Records, parse_binary, parse_python


@dataclass(frozen=True)
class CifarLayout:
    """One official archive: its names, MD5s and parser (content, number of classes, where)."""

    archive: str
    archive_md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    md5: Mapping[str, str]
    parse: Callable[[bytes, int, str], Records]

    @property
    def members(self) -> tuple[str, ...]:
        """The names of all files with images."""
        return (*self.train, self.test)


@dataclass(frozen=True)
class Family:
    """One data set, in the layouts it is published in, the preferred one first."""

    name: str
    class_names: tuple[str, ...]
    layouts: tuple[CifarLayout, ...]
    num_trainval: int = 50_000
    num_val: int = 5_000
    num_test: int = 10_000


CIFAR10 = Family(
    name="cifar10",
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    layouts=(
        CifarLayout(
            archive="cifar-10-binary.tar.gz",
            archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            test="test_batch.bin",
            md5={
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
            },
            parse=partial(parse_binary, num_label_bytes=1),
        ),
        CifarLayout(
            archive="cifar-10-python.tar.gz",
            archive_md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test="test_batch",
            md5={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
            },
            parse=partial(parse_python, label_key="labels"),
        ),
    ),
)

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = Family(
    name="cifar100",
    class_names=tuple(_CIFAR100_CLASSES.split()),
    layouts=(
        CifarLayout(
            archive="cifar-100-binary.tar.gz",
            archive_md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            md5={},
            parse=partial(parse_binary, num_label_bytes=2),
        ),
        CifarLayout(
            archive="cifar-100-python.tar.gz",
            archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train=("train",),
            test="test",
            md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            parse=partial(parse_python, label_key="fine_labels"),
        ),
    ),
)

FAMILIES = {family.name: family for family in (CIFAR10, CIFAR100)}
