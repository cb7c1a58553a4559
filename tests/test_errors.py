"""What a user reads when something goes wrong."""

from pathlib import Path

import pytest

from pocket_resnet import errors
from pocket_resnet.errors import DataError, PocketError, Stopped, did_you_mean


def test_message() -> None:
    assert str(PocketError("broken")) == "broken"
    assert str(DataError("broken", where="a.png")) == "a.png: broken"
    assert str(DataError("broken", where=Path("a.png"), mend="mend it")) == "a.png: broken\n  mend it"
    error = DataError("broken", where="a.png", mend="mend it")
    assert (error.what, error.where, error.mend) == ("broken", "a.png", "mend it")


@pytest.mark.parametrize(
    ("name", "code"),
    [("UsageError", 2), ("DataError", 3), ("ArtifactError", 4), ("EnvironmentFault", 5), ("NonFiniteError", 1)],
)
def test_exit_codes(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, PocketError)
    assert kind("x").exit_code == code


def test_stopped_has_the_signal_s_code() -> None:
    assert [Stopped(number, "x").exit_code for number in (2, 15)] == [130, 143]


def test_did_you_mean() -> None:
    assert did_you_mean("lerning_rate", ["lr", "learning_rate"]) == ", did you mean `learning_rate`?"
    assert did_you_mean("xyz", ["lr", "learning_rate"]) == ""
    assert did_you_mean("x", []) == ""
