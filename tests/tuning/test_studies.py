"""A search that is joined or resumed with other settings."""

from typing import Any

import pytest

from pocket_resnet.errors import UsageError


def test_data_are_compared_with_those_of_the_study(
    begin: Any, make_settings: Any, synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier form of their fingerprint is recognised, and replaced."""
    settings = make_settings()
    study = begin(settings)
    study.set_user_attr("settings", study.user_attrs["settings"] | {"data": "earlier form"})
    with pytest.raises(UsageError, match="the search began with other settings: the training images"):
        begin(settings)
    monkeypatch.setattr(synthetic, "has_fingerprint", lambda fingerprint: fingerprint == "earlier form")
    assert begin(settings).user_attrs["settings"]["data"] == synthetic.fingerprint
