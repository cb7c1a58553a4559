"""Runs a command in a separate process, and measures its time and peak memory."""

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02


@dataclass(frozen=True)
class Finished:
    """A finished command; `peak_gib` is the peak resident memory of its process."""

    output: str
    seconds: float
    peak_gib: float


def run(command: list[str]) -> Finished:
    """Run a command to its end. Raises subprocess.CalledProcessError if it fails.

    The peak is read from /proc while the process runs: the figure of wait4 is at least the memory of the process that
    started it, because a child begins as its copy.
    """
    started_s, peak_gib = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peak_gib = max(peak_gib, _high_water_gib(process.pid))
                time.sleep(POLL_S)
        seconds = time.monotonic() - started_s
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, text)
    return Finished(text, seconds, peak_gib)


def _high_water_gib(pid: int) -> float:
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has just ended
        return 0.0
    return int(match[1]) / 2**20 if match else 0.0
