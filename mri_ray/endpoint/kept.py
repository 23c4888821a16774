"""Answers to studies, kept for a time where every replica finds them.

One object a request and study, `<pseudonym of the study>/<milliseconds>-<random>.json`, written whole and never
changed: replicas need not agree on anything. No UID stands in a name or in what is written; who asks must know it.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mri_ray.archive.pseudonym import SITE_KEY, pseudonym, site_key
from mri_ray.archive.storage import Location
from mri_ray.endpoint.settings import EndpointConfig
from mri_ray.errors import ArchiveNotFound, ConfigError

_NAME = re.compile(r"[0-9a-f]{32}/(\d{15})-[0-9a-f]{16}\.json")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """instances: by pseudonym, as `Keeper.keep` was given them, of each the newest, and the newest of all last.

    expires_ms: when all are gone.
    """

    instances: dict[str, dict[str, Any]]
    expires_ms: int


class Keeper:
    """Where answers are kept, and the key that their names are made with. Raises ConfigError without either."""

    def __init__(self, config: EndpointConfig) -> None:
        key = site_key()
        if config.results.uri is None or key is None:
            raise ConfigError(f"results: need a uri, and names of studies need a site key: set {SITE_KEY}")
        self._key = key
        self._place = Location.of(config.results.uri, config.storage)
        self._keep_ms = round(config.results.keep_hours * 3_600_000)

    def name(self, kind: str, uid: str) -> str:
        """What stands for a UID. kind: study, series or instance."""
        return pseudonym(self._key, kind, uid)

    def keep(self, study_uid: str, instances: Mapping[str, Mapping[str, Any]], now_ms: int) -> None:
        """instances: plain values, by `name`. Raises ArchiveError or OSError where they cannot be written."""
        name = f"{self.name('study', study_uid)}/{now_ms:015d}-{secrets.token_hex(8)}.json"
        self._place.write(name, json.dumps({"instances": dict(instances)}, allow_nan=False).encode(), if_absent=True)

    def look(self, study_uid: str, now_ms: int) -> Kept | None:
        """What is known of a study; None for one that never came, or is gone."""
        names = self._place.keys(f"{self.name('study', study_uid)}/")
        alive = sorted((made, name) for made, name in _made(names) if made + self._keep_ms > now_ms)
        if not alive:
            return None
        instances: dict[str, dict[str, Any]] = {}
        for data in self._place.read_many([name for _, name in alive]):
            if isinstance(data, FileNotFoundError):  # swept away just now
                continue
            if isinstance(data, OSError):
                raise data
            new = json.loads(data)["instances"]
            instances = {name: one for name, one in instances.items() if name not in new} | new
        return Kept(instances=instances, expires_ms=alive[-1][0] + self._keep_ms) if instances else None

    def sweep(self, now_ms: int) -> int:
        """Delete what is older than it may be, and nothing that is not our own; returns how many."""
        gone = 0
        with suppress(ArchiveNotFound):  # nothing was ever kept
            for batch in self._place.list(lambda key: None):
                for made, name in _made(batch["key"].to_pylist()):
                    if made + self._keep_ms <= now_ms:
                        self._place.delete(name)
                        gone += 1
        return gone


def _made(names: Iterable[str]) -> Iterable[tuple[int, str]]:
    return ((int(found[1]), name) for name in names if (found := _NAME.fullmatch(name)))
