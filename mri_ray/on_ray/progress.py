"""What workers have to say, logged by the driver: Ray's own forwarding would bury it under lines of its libraries."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.util.queue import Queue

log = logging.getLogger(__name__)


@contextmanager
def relayed() -> Iterator[Queue]:
    """A queue for workers; each text put into it becomes a line of the driver's log."""
    queue = Queue(actor_options={"num_cpus": 0})

    def relay() -> None:
        while (text := queue.get()) is not None:
            log.info(text)

    thread = threading.Thread(target=relay, name="progress", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        with suppress(ray.exceptions.RayError):
            queue.put(None)
        thread.join(timeout=10)
        queue.shutdown(force=True)
