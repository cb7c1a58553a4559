"""Help texts of flags, and the flags that several commands share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


def flag(text: str, metavar: str | None = None, *, prefix: bool = False) -> Any:
    """A flag's help text and the name of its value, for an annotation.

    A text that ends with `(default: VALUE).` keeps that default. To any other, tyro adds the default's value or
    `(optional)`.
    """
    text, _, stated = text.partition(" (default: ")

    def hint(value: str) -> str:
        if stated:
            return f"(default: {stated.removesuffix('.')}"
        return "(optional)" if value in ("", "None") else f"(default: {value})"

    return tyro.conf.arg(help=text, metavar=metavar, prefix_name=prefix, help_behavior_hint=hint)


def one_or_more(text: str, metavar: str) -> Any:
    """Like `flag`, for an argument of one or more values."""
    return tyro.conf.arg(help=text, metavar=f"{metavar} ...", help_behavior_hint="(one or more)")


Model = tyro.conf.Positional[
    Annotated[
        Path,
        flag("A model directory, a finished run's folder, a released model's name, or hf://user/name.", "MODEL"),
    ]
]
DataDir = Annotated[
    Path | None, flag("Folder for data sets (default: $POCKET_RESNET_DATA or the cache folder).", "DIR")
]
Json = Annotated[bool, flag("Print one JSON object on standard output instead of tables.")]
OutFile = Annotated[Path | None, flag("Also write the JSON object to this file.", "FILE")]
Csv = Annotated[
    bool, flag("Print CSV, one line per image, instead of text; with --out, write it to the file and print the text.")
]
CsvOutFile = Annotated[Path | None, flag("Also write the JSON object, or with --csv the CSV, to this file.", "FILE")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    flag("Where to compute; auto is a CUDA GPU if there is one, otherwise the CPU.", "{auto,cpu,cuda,mps}"),
]
Views = Annotated[
    Literal[1, 2, 6], flag("Number of views to average: 2 adds the mirror image, 6 also adds shifted copies of both.")
]
