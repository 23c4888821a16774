"""One loaded bundle and how it is asked; which of several answers a request."""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mri_ray.archive.storage import Location
from mri_ray.endpoint.settings import BundleConfig
from mri_ray.errors import ArchiveError, BundleError
from mri_ray.learn.bundle import CARD, Bundle
from mri_ray.predict.predictor import Predictions, Predictor

Ask = Callable[[np.ndarray], Awaitable[Predictions]]
AtOnce = Callable[[np.ndarray], Predictions]
_TRIED = 3  # pictures of the self-test
CARD_BYTES = 256 * 1024  # of a card that is told; ours have a tenth of it

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """ask: pictures uint8 (N, 1, S, S) -> predictions, computed together with those of other requests.

    at_once: the same in the caller's own thread, for a request that is alone; None: no such way.
    card: Markdown, as it lay beside the bundle when that was loaded.
    """

    config: BundleConfig
    predictor: Predictor
    ask: Ask
    at_once: AtOnce | None = None
    card: str | None = None

    @property
    def bundle(self) -> Bundle:
        return self.predictor.bundle


@dataclass(frozen=True, kw_only=True, eq=False)
class Lanes:
    """All that answer at a time: taken as one, so that a request sees one state of them."""

    lanes: Sequence[Lane]

    @property
    def answering(self) -> list[Lane]:
        return [lane for lane in self.lanes if not lane.config.shadow and lane.config.share > 0]

    @property
    def digests(self) -> frozenset[str]:
        """Of all that may answer, with a share of the traffic or asked for by version."""
        return frozenset(lane.bundle.digest for lane in self.lanes if not lane.config.shadow)

    @property
    def shadows(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.config.shadow]

    def chosen(self, name: str) -> Lane:
        """By a request's id, or what else it belongs to: asked again under the same name, the same bundle answers."""
        answering = self.answering
        total = sum(lane.config.share for lane in answering)
        at = int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12 * total
        for lane in answering:
            at -= lane.config.share
            if at < 0:
                return lane
        return answering[-1]

    def of(self, digest: str) -> Lane | None:
        """The one of a digest that may answer: no shadow."""
        return next((one for one in self.lanes if one.bundle.digest == digest and not one.config.shadow), None)


def card(place: Location) -> str | None:
    """A bundle's card. None without one, for one above CARD_BYTES or one that cannot be read: answers need none."""
    try:
        with place.open(CARD) as file:
            data = file.read(CARD_BYTES + 1)
    except (OSError, ArchiveError) as exc:
        log.warning("a bundle's card is not told: %s", type(exc).__name__)
        return None
    if len(data) > CARD_BYTES:
        log.warning("a bundle's card is not told: it may have %d bytes", CARD_BYTES)
        return None
    return data.decode("utf-8", "replace")


def self_test(predictor: Predictor) -> None:
    """Raises BundleError unless a bundle gives pictures finite answers, and each the same alone as beside others."""
    size = predictor.bundle.prepare.size
    pictures = np.random.default_rng(0).integers(0, 256, (_TRIED, 1, size, size), np.uint8)
    together = predictor.predict(pictures).probability
    alone = np.concatenate([predictor.predict(pictures[at : at + 1]).probability for at in range(_TRIED)])
    away = float(np.abs(together - alone).max())
    if not away <= 1e-3:
        raise BundleError(f"self-test: one picture must have one answer, got answers that differ by {away:.2g}")


def together(predictor: Predictor, parts: Sequence[np.ndarray]) -> list[Predictions]:
    """The pictures of several requests in one pass, uint8 (N, 1, S, S) each -> what each is answered with."""
    found = predictor.predict(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])
    return [_part(found, end - len(part), end) for end, part in zip(ends.tolist(), parts, strict=True)]


def _part(found: Predictions, start: int, stop: int) -> Predictions:
    return Predictions(
        logit=found.logit[start:stop],
        probability=found.probability[start:stop],
        decision=found.decision[start:stop],
        lesion=None if found.lesion is None else found.lesion[start:stop],
    )
