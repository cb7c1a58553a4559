"""Developer tools for measurements, documents and releases. They are not part of the installed package.

Each runs as `python -m tools.NAME`; `--help` explains it.

- Studies (many short trainings): `ablation` (parts of the original recipe), `shapes` (network shapes), `regularisation`
  (distortion and mixing), `transfer` (fine-tuning against training from scratch), `calibration` (confidence of finished
  runs), `subset` (a folder with few images of a data set)
- Speed: `speed` (whole trainings against the original's step), `steps` (single steps against the fastest convolution),
  `load` (the server's requests per second), `pte_latency` (exported files)
- Documents: `table` (tables), `pictures` (plots), `page_pictures` (screenshots of an exported page), `notebook`
  (main.ipynb)
- Releases: `gpu_run` (a training that ends before a deadline), `release` (the model directory of a run)
- Libraries: `study`, `results`, `ladder`, `scatter`, `labels`, `process`
"""

import argparse
from pathlib import Path
from typing import Any

_COMMON: dict[str, dict[str, Any]] = {
    "data": {"default": "cifar10", "help": "data set or folder of images"},
    "data_dir": {"type": Path, "help": "folder with downloaded data sets, if it is not the usual one"},
    "runs_dir": {"type": Path, "default": Path("runs"), "help": "folder in which the run's folder is made"},
    "rounds": {"type": int, "help": "number of rounds; the measured things take turns in each"},
}


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the description's lines, and adds defaults, except those that mean "off"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def parser(description: str | None, *common: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with these of the common options, by name, and their defaults for this tool."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Formatter)
    for name in common:
        made.add_argument(f"--{name.replace('_', '-')}", **_COMMON[name])
    made.set_defaults(**defaults)
    return made
