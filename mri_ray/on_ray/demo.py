"""The demo: a phantom archive, a training and a scoring on one local cluster."""

import logging

from mri_ray import phantom
from mri_ray.archive.storage import Location
from mri_ray.on_ray.settings import ScoreRun, TrainRun

log = logging.getLogger(__name__)

HEADLINE = (
    "A demonstration on synthetic phantoms: these figures say that the machinery works, "
    "and nothing about pictures of patients."
)


def run(settings: TrainRun) -> str:
    """Write the archive, train on it, score it; returns what to tell the user."""
    archive = Location.of(settings.archive, settings.storage)
    log.info("writing a synthetic archive to %s", archive.uri)
    phantom.write(archive, phantom.PhantomConfig(seed=settings.seed))
    scoring = ScoreRun(
        archive=settings.archive,
        bundle=(Location.of(settings.output, settings.storage) / "train" / "bundle").uri,
        output=(Location.of(settings.output, settings.storage) / "score").uri,
        labels=settings.labels,
    )
    return str(scoring)
