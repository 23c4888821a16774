"""Entry points: `python -m jobs.NAME --config FILE key=value ...`, on a machine, in a job, or on a cluster's head."""

import logging
import sys
from collections.abc import Callable

from mri_ray.errors import MriRayError


def started(job: Callable[[], None]) -> int:
    """Run a job's main; its exit code (see `errors`), with the reason of a failure as the last line of the log."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("mri_ray").setLevel(logging.INFO)
    try:
        job()
    except MriRayError as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    return 0
