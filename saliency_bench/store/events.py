"""Logs the events of a run as JSON lines, for a person, a script or an experiment tracker."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saliency_bench.store.durable import storing

EVENTS = "events.jsonl"
# A link of that name would put the log outside of the folder.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)


class EventLog:
    """Appends to `events.jsonl` of a run folder. Times are in this file and nowhere among the results.

    Every line has `time` (UTC) and `event`: start, warning, set_aside, block, progress, done, interrupted or error. The
    other keys depend on the event: docs/reliability.md. A line is written by one call and ends with a line break; the last
    line of a killed run may be cut short.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS

    def __call__(self, event: str, **facts: Any) -> None:
        """Writes one line.

        Raises:
            StorageError: the disk refuses.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event} | facts, ensure_ascii=False)
        with storing(self.path):
            descriptor = os.open(self.path, _FLAGS, 0o644)
            try:
                os.write(descriptor, f"{line}\n".encode())
            finally:
                os.close(descriptor)
