"""What the tools share: the list of all tools, and the options that several of them have."""

import re
from pathlib import Path

import pytest

import tools


def test_every_tool_is_listed() -> None:
    listed = re.findall(r"`(\w+)`", (tools.__doc__ or "").partition("\n- ")[2])
    assert sorted(listed) == sorted(path.stem for path in Path(tools.__file__).parent.glob("[!_]*.py"))


def test_common_options_have_help_and_each_tools_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    parser = tools.parser("First line.\n\n    second line", "data", "data_dir", "rounds", rounds=7)
    arguments = parser.parse_args(["--data-dir", "here"])
    assert vars(arguments) == {"data": "cifar10", "data_dir": Path("here"), "rounds": 7}
    with pytest.raises(SystemExit) as ending:
        parser.parse_args(["--help"])
    assert ending.value.code == 0
    help_text = capsys.readouterr().out
    assert "First line.\n\n    second line\n" in help_text
    assert "(default: cifar10)" in help_text
    assert "(default: 7)" in help_text
    assert "None" not in help_text
