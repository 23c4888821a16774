"""A run is one complete value, composed of the rooms' own settings. Imports no Ray: it is checked before Ray starts.

The names of the fields are part of the interface: see the README's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import permutations, product
from typing import Any, Literal

from mri_ray.archive.select import SelectConfig
from mri_ray.archive.settings import KeepConfig
from mri_ray.archive.storage import Location, StorageConfig
from mri_ray.cohort.labels import DEFAULT_CLASSES, class_words
from mri_ray.cohort.shortcuts import AuditConfig
from mri_ray.cohort.split import SplitConfig
from mri_ray.decode.settings import DecodeConfig
from mri_ray.endpoint.settings import EndpointConfig
from mri_ray.errors import ConfigError
from mri_ray.learn.settings import CalibrationConfig, EvaluationConfig, ModelConfig, OptimiserConfig
from mri_ray.prepare.augment import AugmentConfig
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.search.settings import TuneSettings
from mri_ray.search.space import Space, checked, in_flight, space_of, with_values


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{name}: must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which Ray to use. address None: the cluster of `RAY_ADDRESS` or of the job, else one on this machine.

    gpus: how many a cluster on this machine counts, None for all that there are; of one that is joined, how many it may
    have, for it may start them only once they are asked for.
    """

    address: str | None = None
    cpus: int | None = None  # of a local cluster; None: all cores
    gpus: int | None = None
    object_store_mb: int = 512  # of a local cluster
    temp_dir: str | None = None  # of a local cluster; short, since socket paths are limited to 107 bytes

    def __post_init__(self) -> None:
        _at_least("cpus", self.cpus, 1)
        _at_least("gpus", self.gpus, 0)
        _at_least("object_store_mb", self.object_store_mb, 80)


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How an archive is cut into shards, and how many are worked on at once (None: as many as there is room for)."""

    objects: int = 256
    megabytes: int = 256
    workers: int | None = None
    per_gpu: int = 2  # shards scored at once on a GPU: one computes while another's last rows are stored
    decode_apart: bool | None = None  # by tasks of their own, on any node with free CPUs; None: where GPUs score

    def __post_init__(self) -> None:
        _at_least("objects", self.objects, 1)
        _at_least("megabytes", self.megabytes, 1)
        _at_least("workers", self.workers, 1)
        _at_least("per_gpu", self.per_gpu, 1)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One training. batch_size is global, whatever the number of workers; window_rows bounds the shuffle's memory.

    accumulate: a worker's share of a batch goes through the network in so many parts. balance: sampling draws as many
    rows of each class of each archive, weights makes both classes count alike. least_workers: where fewer find room, or
    nodes are lost, so many are enough; None: all are waited for.
    """

    epochs: int = 20
    workers: int = 1
    least_workers: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    balance: Literal["none", "weights", "sampling"] = "none"
    patience: int | None = 8  # epochs without a better one (`learn.best`); None: never stop early
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    window_rows: int = 1024
    max_failures: int = 2  # restarts of the worker group

    def __post_init__(self) -> None:
        least = {"epochs": 1, "workers": 1, "batch_size": 2, "accumulate": 1, "window_rows": 1, "max_failures": 0}
        for name, value in least.items():
            _at_least(name, getattr(self, name), value)
        _at_least("patience", self.patience, 1)
        _at_least("least_workers", self.least_workers, 1)
        if self.least_workers is not None and self.least_workers > self.workers:
            raise ConfigError(f"least_workers: must be at most workers ({self.workers}), got {self.least_workers}")
        for number in range(self.least_workers or self.workers, self.workers + 1):
            if self.batch_size % number:
                raise ConfigError(f"batch_size: must be a multiple of workers ({number}), got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class ArchiveRun:
    """What every run over an archive is told. archive: several are prepared, and learned from, as one."""

    archive: str | tuple[str, ...]
    output: str
    identifiers: Literal["pseudonym", "drop", "keep"] = "pseudonym"  # of what headers say; the key: archive.pseudonym
    uris: Literal["keep", "pseudonym"] = "keep"  # pseudonym: paths hold names, so only object ids are written
    linkage: str | None = None  # with uris=pseudonym: where what leads back to the paths is kept
    select: SelectConfig = field(default_factory=SelectConfig)
    max_quarantined_fraction: float = 0.1
    # Stop preparing or scoring after so long; what is done stays, and the same line goes on. A training that has begun
    # is not stopped.
    max_runtime_s: float | None = None
    storage: StorageConfig = field(default_factory=StorageConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    shards: ShardSettings = field(default_factory=ShardSettings)
    ray: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        self._check_archives()
        self._refuse_within("output", "archive", "whose objects it would become")
        if not 0 <= self.max_quarantined_fraction <= 1:
            raise ConfigError(
                f"max_quarantined_fraction: must lie between 0 and 1, got {self.max_quarantined_fraction}"
            )
        if self.max_runtime_s is not None and not self.max_runtime_s > 0:
            raise ConfigError(f"max_runtime_s: must be above 0, got {self.max_runtime_s}")
        if self.uris == "keep" and self.linkage is not None:
            raise ConfigError("linkage: is only used with uris=pseudonym")
        if self.uris == "pseudonym" and self.linkage is None:
            raise ConfigError("linkage: is required with uris=pseudonym: where what leads back to the paths is kept")
        for name in ("output", "archive"):
            self._refuse_within("linkage", name, "since it holds what must not be found there")

    def _refuse_within(self, inner: str, outer: str, why: str) -> None:
        """Raise ConfigError when one place, if it is given, lies in another."""
        for value, around in product(*(_places(getattr(self, name)) for name in (inner, outer))):
            one, other = (f"{Location.of(place, self.storage).uri}/" for place in (value, around))
            if one.startswith(other):
                raise ConfigError(f"{inner}: must not lie in the {outer}, {why}, got {value}")

    def _check_archives(self) -> None:
        if isinstance(self.archive, str):
            return
        if not self.archive:
            raise ConfigError("archive: must be at least one, got none")
        places = [Location.of(place, self.storage).uri for place in self.archive]
        for one, other in permutations(places, 2):
            if f"{one}/".startswith(f"{other}/"):
                raise ConfigError(f"archive: none of several must lie in another, got {one} in {other}")


def _places(value: str | tuple[str | None, ...] | None) -> list[str]:
    values = (value,) if value is None or isinstance(value, str) else value
    return [place for place in values if place is not None]


def listed(value: str | tuple[str | None, ...] | None, archive: str | tuple[str, ...]) -> tuple[str | None, ...]:
    """What is given for each archive: None where nothing is."""
    if value is None:
        return (None,) * (1 if isinstance(archive, str) else len(archive))
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class PrepareRun(ArchiveRun):
    """One preparation: archive in; shards of prepared slices, for trainings to give as `cache`, and a ledger out."""

    dry_run: bool = False  # list the archive and say what there is to do; nothing is written
    prepare: PrepareConfig = field(default_factory=PrepareConfig)


def _default_classes() -> dict[str, list[str]]:
    return {name: list(words) for name, words in DEFAULT_CLASSES.items()}


@dataclass(frozen=True, kw_only=True)
class LabelledRun(ArchiveRun):
    """What a run is told whose answers are held against labels."""

    # A CSV or Parquet file, for several archives one each; None: the class is the folder's name, where it tells.
    labels: str | tuple[str | None, ...] | None = None
    classes: dict[str, list[str]] = field(default_factory=_default_classes)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_one_each("labels")
        class_words(self.classes)  # raises ConfigError

    def _check_one_each(self, name: str) -> None:
        """Raise ConfigError unless there are as many of them as archives, where there are any."""
        value, archives = getattr(self, name), 1 if isinstance(self.archive, str) else len(self.archive)
        given = 1 if isinstance(value, str) else len(value or ())
        if value is not None and given != archives:
            raise ConfigError(f"{name}: must be one for each archive (null for none), got {given} for {archives}")


@dataclass(frozen=True, kw_only=True)
class TrainEvaluation(EvaluationConfig):
    """naive: also train on slices dealt at random, as most do, to show what such figures are worth."""

    naive: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainRun(LabelledRun):
    """One training: archive in; bundle, report and results out."""

    masks: str | tuple[str | None, ...] | None = None  # of tumor slices, named as these are; for each archive
    cache: str | None = None  # where listings and prepared rows are kept, the output of `jobs.prepare`; None: output
    seed: int = 0
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    train: TrainSettings = field(default_factory=TrainSettings)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    evaluation: TrainEvaluation = field(default_factory=TrainEvaluation)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_within("cache", "archive", "whose objects it would become")
        self._refuse_within("linkage", "cache", "since it holds what must not be found there")
        self._check_one_each("masks")
        if self.model.masks and not _places(self.masks):
            raise ConfigError("model.masks: a mask head needs masks to learn from, got none; give them as `masks`")
        if self.model.input_size != self.prepare.size:
            raise ConfigError(
                f"model.input_size: must equal prepare.size ({self.prepare.size}), got {self.model.input_size}"
            )
        _at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class TuneRun(TrainRun):
    """One search: all that a training is told, what of it is searched, and how; the best training's bundle out.

    resume: go on with the search of the same settings that was killed in this output; else it begins anew.
    """

    search: dict[str, Any]
    tune: TuneSettings = field(default_factory=TuneSettings)
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        tune = self.tune
        checked(self.space, self.with_values, grid=tune.algorithm == "grid", seed=self.seed)
        if tune.scheduler == "pbt" and not any(in_flight(one.path) for one in self.space.ranges):
            raise ConfigError("search: must name a field of optimiser or augment with scheduler pbt, got none")
        if tune.scheduler == "pbt" and self.train.least_workers is not None:
            raise ConfigError("train.least_workers: must be left out with scheduler pbt")

    @property
    def space(self) -> Space:
        return space_of(self.search, self.training)

    @property
    def training(self) -> TrainRun:
        """The training that the search begins with: the config without what is searched."""
        return TrainRun(**{item.name: getattr(self, item.name) for item in fields(TrainRun)})

    def with_values(self, values: Mapping[str, Any]) -> TrainRun:
        """The training at a point of the space. Raises ConfigError where it is none that is accepted."""
        coupled = {"model.input_size": values["prepare.size"]} if "prepare.size" in values else {}
        changed: TrainRun = with_values(self.training, coupled | dict(values))
        return changed


@dataclass(frozen=True, kw_only=True)
class AuditRun(LabelledRun):
    """One audit: archive in; what a training on it could learn by mistake, as a report, out."""

    cache: str | None = None  # as of a training, which then prepares nothing anew
    seed: int = 0
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_within("cache", "archive", "whose objects it would become")
        self._refuse_within("linkage", "cache", "since it holds what must not be found there")
        _at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class ScoreRun(LabelledRun):
    """One scoring of a whole archive: archive and bundle in; results and report out."""

    bundle: str
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["auto", "torch", "openvino", "ncnn"] = "auto"  # auto: what is proven and pays (`predict.ways`)
    micro_batch: int | None = None  # pictures a forward pass; None: what suits the device
    keep: KeepConfig = field(default_factory=KeepConfig)
    dry_run: bool = False  # list the archive and say what there is to do; nothing is written

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.archive, str):
            raise ConfigError("archive: must be one, since each archive has results of its own, got several")
        _at_least("micro_batch", self.micro_batch, 1)


@dataclass(frozen=True, kw_only=True)
class GenerationsRun:
    """The generations that the output of scorings holds: they are listed; `use` makes one of them the current one."""

    output: str
    use: str | None = None  # the generation's name, or as much of it as no other begins with
    storage: StorageConfig = field(default_factory=StorageConfig)


@dataclass(frozen=True, kw_only=True)
class ServeRun:
    """The endpoint on this machine alone: one bundle, on the loopback interface, for whoever is here.

    replicas: None begins with one and starts more while requests queue, up to what the GPUs, else the CPUs hold.
    gpus: of each replica, also a part of one, then others share it; None: one where there are any.
    """

    bundle: str
    port: int = 8000
    replicas: int | None = None
    gpus: float | None = None
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    ray: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port: must lie between 1 and 65535, got {self.port}")
        _at_least("replicas", self.replicas, 1)
        if self.gpus is not None and not (0 <= self.gpus <= 1 or (self.gpus > 1 and float(self.gpus).is_integer())):
            raise ConfigError(f"gpus: must be a part of one GPU or a whole number of them, got {self.gpus:g}")
