"""The order of the server's work on GPUs, which do it later than they are told to.

A worker tells the server of a push when its device has finished it. The server queues copies and
updates on streams of its own, one on each GPU, and answers when they have been done: so neither
reads what the other is still writing, and no other work on the devices is waited for. The versions
in an answer are those of what has landed. The order of waits is tested with stand-ins for streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch


class ServerStreams:
    """A stream on each GPU; on CPUs, where work is done at once, nothing.

    Args:
        devices: Where the server works; the same may be named several times.
    """

    def __init__(self, devices: Iterable[str]) -> None:
        gpus = [name for name in dict.fromkeys(devices) if torch.device(name).type == "cuda"]
        self._streams = [
            torch.cuda.Stream(torch.device(gpu))  # type: ignore[no-untyped-call]
            for gpu in gpus
        ]

    @contextlib.contextmanager
    def completed(self) -> Iterator[None]:
        """Queue the work of the context on the streams, and wait for it at its end.

        It begins after what this process has queued on the devices before. A copy between two
        devices is queued on the stream of its source, and that of its target waits for it.
        """
        with contextlib.ExitStack() as current:
            for stream in self._streams:
                stream.wait_stream(torch.cuda.current_stream(stream.device))
                current.enter_context(torch.cuda.stream(stream))
            yield
            done = [stream.record_event(_blocking_event()) for stream in self._streams]
        for event in done:
            event.synchronize()


def _blocking_event() -> torch.cuda.Event:
    """Create an event that is waited for asleep, so that others have the processor meanwhile."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
