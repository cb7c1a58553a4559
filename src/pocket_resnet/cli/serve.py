"""The command `serve`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from pocket_resnet.cli.flags import Device, Model, flag


@dataclass
class Serve:
    """Serve a model over HTTP, for this machine: a page that classifies images, and a REST API.

    pocket-resnet serve pocket-5m --port 8000

    MODEL may also be an .onnx file that `export` wrote. Needs the extra `serve`: pip install 'pocket-resnet[serve]'
    """

    model: Model
    host: Annotated[str, flag("Address to listen on.", "ADDRESS")] = "127.0.0.1"
    port: Annotated[int, flag("Port to listen on; 0 picks a free one.", "PORT")] = 8000
    public: Annotated[bool, flag("Allow an address that other machines can connect to, such as 0.0.0.0.")] = False
    hostname: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="Names under which clients reach the server; others are refused.",
            metavar="NAME ...",
            help_behavior_hint="(default: localhost)",
        ),
    ] = ()
    device: Device = "auto"

    def execute(self) -> None:
        from pocket_resnet.extras import require_extra

        require_extra("serve")
        from pocket_resnet.cli.console import log_requests_to_terminal
        from pocket_resnet.serving.server import serve

        with log_requests_to_terminal():
            serve(
                self.model,
                self.host,
                self.port,
                public=self.public,
                hostnames=self.hostname,
                device=self.device,
            )
