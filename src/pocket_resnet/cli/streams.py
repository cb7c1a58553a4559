"""Standard output and standard error of the command: always there, no character too odd, quiet when nobody reads."""

import contextlib
import io
import os
import signal
import sys
from typing import TextIO

READER_GONE = 128 + signal.SIGPIPE


def prepare() -> None:
    """Open closed streams on the null device, and escape characters that an encoding does not have.

    Else messages for a closed standard error would go to standard output, and the next file that is opened would take
    the number of the closed stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "r" if number == 0 else "w"), encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # of a file that something else has taken the place of
                stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what is left. Raises OSError where standard output refuses, after which nothing more is written to it."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
        raise


def discard(*streams: TextIO) -> None:
    """Send what these streams still hold, and all that comes, nowhere: Python writes it again when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)


def encoding() -> str:
    """Of standard output."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"
