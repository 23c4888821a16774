"""How a search goes about it: by which trials, for how long, and what is made of the best. Imports no Optuna."""

from dataclasses import dataclass
from typing import Literal

from mri_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """One search. It ends with `trials`, `max_minutes` from its start, or `worker_hours`, whatever comes first.

    algorithm: where settings come from; grid tries all, `trials` at most. scheduler: what stops poor trials: asha and
    median do, from epoch `grace` on; pbt lets them go on from better ones every `perturb_epochs`, with other learning
    rates and augmentation. reduction: of asha, one in so many goes on. startup: of optuna, trials drawn at random first
    (None: a quarter, at least 4). default_first: the first trial is the config as it stands.
    cost: milliseconds an image are a second objective; the winner is the cheapest within `tolerance` of the best AUROC.
    folds: each trial is trained and measured so many times, on parts of the training and validation groups; 0: once.
    concurrent, worker_cpus: None: worked out from the cluster. max_failures: how often a trial that fails goes on from
    its checkpoint. final: the winner as its trial left it, or trained again on training and validation side together.
    """

    trials: int = 16
    max_minutes: float | None = None
    worker_hours: float | None = None
    algorithm: Literal["optuna", "random", "grid"] = "optuna"
    scheduler: Literal["asha", "median", "pbt", "none"] = "asha"
    grace: int = 3
    reduction: int = 3
    perturb_epochs: int = 2
    startup: int | None = None
    default_first: bool = True
    cost: bool = False
    tolerance: float = 0.005
    folds: int = 0
    concurrent: int | None = None
    worker_cpus: float | None = None
    max_failures: int = 2
    final: Literal["checkpoint", "refit"] = "checkpoint"

    def __post_init__(self) -> None:
        least = {"trials": 1, "grace": 1, "reduction": 2, "perturb_epochs": 1, "startup": 1, "concurrent": 1}
        for name, low in (least | {"max_failures": 0, "tolerance": 0}).items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name}: must be at least {low}, got {value}")
        for name in ("max_minutes", "worker_hours", "worker_cpus"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}: must be above 0, got {value}")
        if self.folds not in (0, *range(2, 21)):
            raise ConfigError(f"folds: must be 0 for none, or from 2 to 20, got {self.folds}")
        if self.scheduler == "pbt" and self.folds:
            raise ConfigError(f"folds: must be 0 with scheduler pbt, which changes one training, got {self.folds}")
        if self.scheduler == "pbt" and self.trials < 2:
            raise ConfigError(f"trials: must be at least 2 with scheduler pbt, a population, got {self.trials}")

    @property
    def startup_trials(self) -> int:
        return self.startup or max(4, self.trials // 4)
