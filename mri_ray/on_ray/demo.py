"""The demo: a phantom archive, a training on it and a scoring of it, on one local cluster."""

import logging
import os
from dataclasses import replace

from mri_ray import phantom
from mri_ray.archive.identity import digest
from mri_ray.archive.pseudonym import SITE_KEY, site_key
from mri_ray.archive.storage import Location
from mri_ray.on_ray import cluster, score, train
from mri_ray.on_ray.settings import ScoreRun, TrainRun

log = logging.getLogger(__name__)

HEADLINE = (
    "A demonstration on synthetic phantoms: its figures say that the machinery works, "
    "and nothing about pictures of patients."
)
PHANTOMS = phantom.PhantomConfig(patients=60, slices=12, contrast=2.0)  # easier than the default: a minute must do


def run(settings: TrainRun) -> str:
    """Write an archive below `settings.output`, train on it and score it; returns what to tell the user.

    archive and labels of the settings are set here; the others hold.
    """
    if site_key() is None:
        log.info(
            "%s is not set: the demo makes a key of its own from its seed, good enough for phantoms; set a secret one "
            "for patients",
            SITE_KEY,
        )
        os.environ[SITE_KEY] = digest("demo", str(settings.seed))
    root = Location.of(settings.output, settings.storage) / f"seed-{settings.seed}"
    log.info("1 of 3: drawing a synthetic archive of %s patients in %s", PHANTOMS.patients, root.uri)
    truth = phantom.write(root, replace(PHANTOMS, seed=settings.seed))
    training = replace(settings, archive=truth.archive.uri, labels=truth.labels.uri, output=(root / "train").uri)
    with cluster.connected(settings.ray):
        log.info("2 of 3: training a small CNN on it, for a minute or two")
        trained = train.run(training, headline=HEADLINE).values
        log.info("3 of 3: scoring the whole archive with the trained bundle")
        scoring = ScoreRun(
            archive=training.archive,
            labels=training.labels,
            bundle=trained["bundle"],
            output=(root / "score").uri,
            storage=settings.storage,
            ray=settings.ray,
        )
        scored = score.run(scoring, headline=HEADLINE).values
    nothing = {"n": 0, "auroc": None, "sensitivity": None, "specificity": None}
    test = scored["metrics"].get("test", nothing)
    studies = scored["levels"].get("study", {}).get("test", nothing)
    return (
        f"{HEADLINE}\n"
        f"slices of patients it never saw: {test['n']}, AUROC {_figure(test['auroc'])}, at validation's threshold "
        f"sensitivity {_figure(test['sensitivity'])}, specificity {_figure(test['specificity'])}\n"
        f"their studies: {studies['n']}, AUROC {_figure(studies['auroc'])}\n"
        f"objects by state: {scored['counts']}\n"
        f"training report: {trained['report']}\n"
        f"scoring report:  {scored['report']}\n"
        f"results:         {scored['results']}"
    )


def _figure(value: float | None) -> str:
    return "not estimable" if value is None else f"{value:.3f}"
