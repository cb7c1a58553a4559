"""Turns failures of the Hugging Face hub into this package's errors.

huggingface_hub's own messages are dropped: they have several lines, and may quote what a server sent back.
"""

import contextlib
import re
from collections.abc import Iterator

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.version import __version__

LOGIN_HINT = "log in with `hf auth login`, or set HF_TOKEN"
_TOKEN = re.compile(r"[\x21-\x7e]+")
_REFUSALS = {
    401: (
        "the hub does not know this repository, or does not accept the token",
        f"check the name; for a private repository {LOGIN_HINT}",
    ),
    403: (
        "the hub does not permit this",
        "ask for access on the repository's page, or use a token with write permission to push",
    ),
    404: ("the hub does not know this repository or revision", "check user/name, and the revision after @"),
}


class UnreachableFault(EnvironmentFault):
    """The hub does not answer, or something else answers in its place: a local copy may be used."""


def headers() -> dict[str, str]:
    """The headers of a request: the client's name, and the user's token if there is one.

    Raises EnvironmentFault for a token that cannot be sent, which would otherwise be quoted by the error.
    """
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in __all__

    built = build_hf_headers(library_name="pocket-resnet", library_version=__version__)
    token = built.get("authorization", "Bearer x").removeprefix("Bearer ")
    if not _TOKEN.fullmatch(token):
        raise EnvironmentFault("the token for the hub has characters that no token has", hint=LOGIN_HINT)
    return built


def refused(status: int, where: str) -> EnvironmentFault:
    """The error for an HTTP status that the hub answers with."""
    if status >= 500 or status == 429:
        return UnreachableFault(f"the hub answers with HTTP status {status}", where=where, hint="try again later")
    what, hint = _REFUSALS.get(status, (f"the hub answers with HTTP status {status}", "check user/name"))
    return EnvironmentFault(what, where=where, hint=hint)


@contextlib.contextmanager
def explain_hub_errors(where: str) -> Iterator[None]:
    """Turn errors that huggingface_hub raises inside the block into an EnvironmentFault about the repository."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    fault: EnvironmentFault
    try:
        yield
        return
    except HfHubHTTPError as error:
        fault = refused(error.response.status_code, where)
    except OfflineModeIsEnabled:
        fault = UnreachableFault("HF_HUB_OFFLINE is set", where=where, hint="unset HF_HUB_OFFLINE")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
        fault = UnreachableFault(
            "the hub cannot be reached", where=where, hint="check the network, proxy settings and HF_ENDPOINT"
        )
    except (ValueError, LookupError, TypeError, AttributeError):  # the response is not JSON, or unexpected JSON
        fault = UnreachableFault(
            "the hub's answer cannot be read: it may be a web page of a login or proxy",
            where=where,
            hint="check the network and HF_ENDPOINT",
        )
    except RuntimeError as error:  # from an upload; its cause has the server's response
        response = getattr(error.__cause__, "response", None)
        fault = EnvironmentFault("the upload failed", where=where, hint="try again: what has arrived is kept")
        if response is not None:
            fault = refused(response.status_code, where)
    raise fault from None
