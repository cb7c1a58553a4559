"""Reads the pictures in a request, within limits on its type, its size and the memory of all requests together."""

import contextlib
from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pocket_resnet.serving.batching import BusyError
from pocket_resnet.serving.problems import RequestError

MAX_BODY_BYTES = 16 * 2**20
MAX_BUFFERED_BYTES = 256 * 2**20
MAX_NUM_PICTURES = 16
SEVERAL = "multipart/form-data"
ONE = ("application/octet-stream", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/tiff", "image/webp")


class Uploads:
    """The request bodies in memory."""

    def __init__(self) -> None:
        self._num_bytes = 0

    @contextlib.asynccontextmanager
    async def pictures(self, request: Request) -> AsyncIterator[list[bytes]]:
        """The encoded pictures of the request, which count as memory in use while the context is open.

        Raises RequestError for another content type, a body over the limit or a broken form, and BusyError while other
        bodies fill the memory.
        """
        media_type = _media_type(request)
        if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:
            raise _too_large()
        body = bytearray()
        counted = 0
        try:
            async for chunk in request.stream():
                body += chunk
                self._num_bytes += len(chunk)
                counted += len(chunk)
                if counted > MAX_BODY_BYTES:
                    raise _too_large()
                if self._num_bytes > MAX_BUFFERED_BYTES:
                    raise BusyError
            yield await _parts(request, body) if media_type == SEVERAL else [bytes(body)]
        finally:
            self._num_bytes -= counted


def _too_large() -> RequestError:
    return RequestError(413, f"over the limit of {MAX_BODY_BYTES:,} bytes", hint="send a smaller picture, or fewer")


def _media_type(request: Request) -> str:
    """The media type without its parameters. Raises RequestError unless it is a picture's or a form's."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in (*ONE, SEVERAL) or media_type.startswith("image/"):
        return media_type
    raise RequestError(
        415,
        f"content type {media_type[:100]!r}" if media_type else "no content type",
        hint=f"send a picture's bytes as image/jpeg, image/png or application/octet-stream, or several as {SEVERAL}",
    )


class _InMemory(MultiPartParser):
    spool_max_size = MAX_BODY_BYTES + 1  # the body is in memory already; nothing goes to disk


async def _parts(request: Request, body: bytearray) -> list[bytes]:
    """The files of a form. Raises RequestError if it has none, too many, or other fields."""

    async def stream() -> AsyncIterator[bytes]:
        yield bytes(body)

    try:
        parser = _InMemory(request.headers, stream(), max_files=MAX_NUM_PICTURES, max_fields=0)  # type: ignore[arg-type]
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(
            400, error.message, hint=f"send 1 to {MAX_NUM_PICTURES} files and no other fields"
        ) from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise RequestError(400, "a form without files", hint=f"send 1 to {MAX_NUM_PICTURES} files")
    return [await file.read() for file in files]
