"""The command `push`."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.flags import Json, Model, OutFile, flag

if TYPE_CHECKING:
    from pocket_resnet.hub import Pushed


@dataclass
class Push:
    """Upload a model to the Hugging Face hub, with its card and SHA-256 sums; `hf://user/name` then loads it.

    pocket-resnet push runs/latest user/name

    Needs the extra `hub` (pip install 'pocket-resnet[hub]') and a token: run `hf auth login`, or set HF_TOKEN.
    """

    model: Model
    repository: tyro.conf.Positional[
        Annotated[str, flag("The repository on the hub; a new one is created.", "USER/NAME")]
    ]
    private: Annotated[bool, flag("Create a private repository; an existing one must be private.")] = False
    dry_run: Annotated[bool, flag("Verify the model and list the files, but send nothing.")] = False
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.hub import push

        output = CommandOutput(self.json, self.out)
        pushed = push(self.model, self.repository, private=self.private, dry_run=self.dry_run)
        output.write(lambda: asdict(pushed), lambda: _print(pushed))


def _print(pushed: "Pushed") -> None:
    for name, num_bytes in pushed.num_bytes.items():
        print(f"{name:18} {num_bytes:>13,} bytes")
    if pushed.url is None or pushed.commit is None:
        print("nothing was sent (--dry-run)")
        return
    print(f"page    {pushed.url}, commit {pushed.commit[:12]}")
    print(f"next    pocket-resnet evaluate {pushed.address}")
