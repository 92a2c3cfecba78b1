"""How an error travels from a daemon to the command line that asked.

A :class:`ConsiliumError` becomes a gRPC status whose trailing metadata holds its parts as
JSON, so that the command line shows the very same error. Anything else is a defect: the
daemon logs its type and place, and the other side learns nothing but that there was one,
since the text of an exception may hold what must not travel.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import grpc
import structlog

from common import errors
from common.documents import read_json
from common.errors import ConsiliumError, LinkError, Refusal, RefusalCode
from common.process.logs import place

METADATA_KEY: Final = "consilium-error-bin"
LONGEST: Final = 1500
"""Characters of one detail that travel: gRPC closes a call whose metadata pass 8 KiB."""
AWAY: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # a daemon that ends cancels what it was asked
)

log = structlog.get_logger(__name__)


class ControlError(Exception):
    """The daemon met a defect of its own; its log says where."""


def encode(error: ConsiliumError) -> bytes:
    """The parts of an error, as JSON."""
    # A subclass from elsewhere travels as its class of the tree, which the other side knows.
    kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
    parts: dict[str, Any] = {
        "kind": kind.__name__,
        "what": error.what[:LONGEST],
        "details": {name: text[:LONGEST] for name, text in error.details.items()},
    }
    if isinstance(error, Refusal):
        parts["code"] = str(error.code)
    return json.dumps(parts).encode()


def decode(data: bytes) -> ConsiliumError:
    """The error whose parts :func:`encode` wrote; one that says so for anything else."""
    try:
        return _decoded(read_json(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        return LinkError(
            "the daemon reports an error that this command cannot read",
            remedy="install the same version of Consilium for both; the daemon's log shows the "
            "error",
        )


def _decoded(parts: dict[str, Any]) -> ConsiliumError:
    kind = getattr(errors, parts["kind"], ConsiliumError)
    details = {**parts["details"], "remedy": parts["details"].get("do")}
    details.pop("do", None)
    what = str(parts["what"])
    if kind is Refusal:
        return Refusal(RefusalCode(parts["code"]), what, **details)
    error: ConsiliumError = kind(what, **details)
    return error


def translated(failure: grpc.RpcError, daemon: str, remedy: str) -> Exception:
    """What a failed call means to the person who made it.

    Args:
        failure: as gRPC raised it.
        daemon: whom was asked, as a noun: ``"the site's daemon"``.
        remedy: what to do where it does not answer.
    """
    call = cast("grpc.Call", failure)  # what a failed call raises is both
    status = call.code()
    carried = dict(call.trailing_metadata() or ()).get(METADATA_KEY)
    if isinstance(carried, bytes):
        return decode(carried)
    if status in AWAY:
        return LinkError(
            f"{daemon} does not answer",
            found="no answer in time" if status is grpc.StatusCode.DEADLINE_EXCEEDED else None,
            remedy=remedy,
        )
    return ControlError(f"{daemon} answered {status.name}; its log shows where it failed")


@contextmanager
def asking(daemon: str, remedy: str) -> Iterator[None]:
    """Calls made inside raise what the daemon raised; see :func:`translated`."""
    try:
        yield
    except grpc.RpcError as failure:
        raise translated(failure, daemon, remedy) from failure


class RpcErrors(grpc.aio.ServerInterceptor):
    """Lets a service raise :class:`ConsiliumError`, and nothing else out of it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - gRPC's handler, of one of four shapes
        """Wrap the handler that is about to be called."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _stream(handler.unary_stream, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _single(handler.unary_unary, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _single(behaviour: Callable[..., Any], method: str) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(behaviour)
    async def wrapped(request: Any, context: Any) -> Any:  # noqa: ANN401 - messages
        try:
            answer = behaviour(request, context)
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:  # noqa: BLE001 - the last stop before the wire
            return await _abort(context, error, method)

    return wrapped


def _stream(behaviour: Callable[..., Any], method: str) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(behaviour)
    async def wrapped(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - messages
        try:
            async for answer in behaviour(request, context):
                yield answer
        except Exception as error:  # noqa: BLE001 - the last stop before the wire
            await _abort(context, error, method)

    return wrapped


async def _abort(context: Any, error: Exception, method: str) -> Any:  # noqa: ANN401 - gRPC's
    """End the call with the error; raises, as gRPC ends a call."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ConsiliumError):
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            type(error).__name__,
            ((METADATA_KEY, encode(error)),),
        )
    log.error("control.failed", method=method, error=type(error).__name__, at=place(error))
    await context.abort(grpc.StatusCode.INTERNAL, "a bug; the daemon's log shows where")
