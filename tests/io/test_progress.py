"""A bar in a terminal, lines everywhere; nothing fails because standard error was closed."""

import errno
import io
import re
import sys
from collections.abc import Callable

import pytest

from pocket_resnet.io.progress import Bar, print_line


class Stream(io.StringIO):
    """A text stream, which may be a terminal and may fail with an error of that number."""

    def __init__(self, *, is_terminal: bool, number: int = 0) -> None:
        super().__init__()
        self.is_terminal, self.number, self.num_attempts = is_terminal, number, 0

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.num_attempts += 1
        if self.number:
            raise OSError(self.number, text)
        return super().write(text)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stream], str]:
    """Show a bar and a line on this stream as standard error; returns what was written."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")

    def on(stream: Stream) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            with Bar("starting", 7) as bar:
                bar.update(2, text="epoch 1")
                print_line("[bold]3 skipped :smile:[/bold]")
                bar.advance(1)
        return stream.getvalue()

    return on


def test_lines_stand_above_the_bar(show: Callable[[Stream], str]) -> None:
    written = show(Stream(is_terminal=True))
    _, line, after = written.partition("[bold]3 skipped :smile:[/bold]")
    assert line, written
    assert re.search(r"3/7\S* epoch 1", after), written


def test_elsewhere_only_lines_are_printed(show: Callable[[Stream], str]) -> None:
    assert show(Stream(is_terminal=False)) == "[bold]3 skipped :smile:[/bold]\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE, errno.ENOSPC])
@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of rich, which redraws the bar
def test_errors_of_the_stream_are_ignored(number: int, is_terminal: bool, show: Callable[[Stream], str]) -> None:
    """A closed terminal, a closed pipe, a full disk."""
    stream = Stream(is_terminal=is_terminal, number=number)
    show(stream)
    assert stream.num_attempts > 0
