"""Standard output and standard error: always open, able to print any character, silent once the reader has gone."""

import contextlib
import io
import os
import signal
import sys
from typing import TextIO

READER_GONE = 128 + signal.SIGPIPE


def prepare() -> None:
    """Open closed streams on the null device, and escape characters that an encoding does not have.

    Otherwise, messages for a closed standard error would go to standard output, and the next file to be opened would
    get the number of the closed stream.
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
            with contextlib.suppress(OSError):  # another file has its descriptor
                stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write buffered output. If standard output fails, raise OSError and write nothing more to it."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
        raise


def discard(*streams: TextIO) -> None:
    """Discard buffered and future output of these streams, which Python would otherwise write when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)


def encoding() -> str:
    """The encoding of standard output."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"
