"""Entry points: `python -m jobs.NAME --config FILE key=value ...`, on a machine, in a job, or on a cluster's head."""

import logging
import sys
from collections.abc import Callable

from mri_ray.errors import MriRayError


def started(job: Callable[[], None]) -> int:
    """Run a job's main; its exit code (see `errors`), with the reason of a failure as the last line of the log."""
    _log_to_stderr()
    try:
        job()
    except MriRayError as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    return 0


def _log_to_stderr() -> None:
    """A handler of our own, since Ray sets up the root logger anew when it is joined."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("mri_ray")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
