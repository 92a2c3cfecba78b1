"""A stream ends when its caller loses the right to it.

The right is checked before each message of a stream, and once a second while there is none. So an
operator who was shut out learns nothing more. An interceptor checks it for every streaming call of
a server: a new call cannot forget it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

LOOK_SECONDS: Final = 1.0
"""How long a stream without messages may outlive the right to it."""
Context = Any
"""gRPC's, which is untyped."""


class Rights(grpc.aio.ServerInterceptor):
    """Ends the streams of callers that have lost the right to them.

    Args:
        require: given a call's context, raises if its caller may not call.
    """

    def __init__(self, require: Callable[[Context], object]) -> None:
        self._require = require

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - gRPC's handler, of one of four shapes
        """Wrap the handler of a call, if it streams."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming or handler.request_streaming:
            return handler
        return grpc.unary_stream_rpc_method_handler(
            self._guarded(handler.unary_stream),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guarded(
        self, behaviour: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        @functools.wraps(behaviour)
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
            self._require(context)
            said = behaviour(request, context)
            while True:
                following = asyncio.ensure_future(_following(said))
                try:
                    while not following.done():
                        # Not wait_for: its time-out would cancel the generator within a step.
                        await asyncio.wait({following}, timeout=LOOK_SECONDS)
                        self._require(context)
                finally:
                    following.cancel()  # has no effect when it is done
                if not (item := following.result()):
                    return
                yield item[0]

        return guarded


async def _following(said: AsyncIterator[Any]) -> tuple[Any, ...]:
    """The next message, alone in a tuple; an empty tuple at the end."""
    async for item in said:
        return (item,)
    return ()
