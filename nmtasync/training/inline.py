"""One worker: no processes, the worker and the server take turns in this one."""

from __future__ import annotations

from nmtasync.training.in_process import InProcessDriver


class InlineDriver(InProcessDriver):
    """Runs one worker to the end."""

    def train(self) -> str:
        """Train until there is a reason to stop; return it."""
        self.fetch(0)
        while (reason := self.session.stop_reason()) is None:
            self.push(0, self.session.next_window(0))
            self.save_if_due()
        return reason
