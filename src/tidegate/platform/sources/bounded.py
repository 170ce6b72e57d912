"""A deadline for calls of a driver that has none of its own.

Enters: a call that may block inside the driver for ever, where no signal reaches it: a synchronous commit, a consumer
that leaves its group while the coordinator does not answer (known of librdkafka, and open there). Leaves: whether it
ended in time. A call that did not is left behind in its daemon thread, so that a worker that is asked to stop stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["ended_within"]


def ended_within(seconds: float, call: Callable[[], object]) -> bool:
    """Whether ``call`` ended within ``seconds``; raises what it raised. Late exceptions are lost with the call."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # raised again in the caller's thread
            raised.append(error)

    thread = threading.Thread(target=run, name="tidegate-bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return False
    if raised:
        raise raised[0]
    return True
