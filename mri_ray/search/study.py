"""Optuna: which point comes next, given how all before have gone; and which settings mattered."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from mri_ray.search.space import Range, Space, Values
from mri_ray.search.trials import State, Trial, usable

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """The tree-structured Parzen estimator over a space, for one objective (AUROC), or two (and milliseconds an image).

    Its state follows from the trials that have ended, so that a search that was killed goes on where it was.
    """

    def __init__(self, space: Space, ended: Sequence[Trial], *, seed: int, startup: int, cost: bool) -> None:
        self._space, self._cost = space, cost
        self._asked: dict[int, optuna.Trial] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed + 1000 * len(ended),  # what was drawn before a kill is not drawn again
                n_startup_trials=startup,
                multivariate=True,
                group=True,  # conditional settings apart
                constant_liar=True,  # several at once must not be alike
            )
        maximal, minimal = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
        directions = [maximal, minimal] if cost else [maximal]
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        for one in ended:
            self.learn(one)

    def ask(self, number: int) -> Values:
        self._asked[number] = self._study.ask()
        return self._space.pick(self._asked[number])

    def learn(self, ended: Trial) -> None:
        """How a trial ended, whether or not it was asked for here; what lies outside the space teaches nothing."""
        asked = self._asked.pop(ended.number, None)
        if asked is not None:
            self._study.tell(asked, state=TrialState.FAIL)  # in its place comes all that is known of it
        known = frozen(self._space, ended, cost=self._cost)
        if known is not None:
            self._study.add_trial(known)


def frozen(space: Space, ended: Trial, *, cost: bool) -> FrozenTrial | None:
    """A trial as Optuna keeps it; None where its settings are no point of the space, or it has no figure."""
    picked = _encoded(space, ended.settings)
    if picked is None:
        return None
    params, distributions = picked
    value = ended.auroc if ended.state != State.FAILED else None
    if value is None or (cost and ended.ms_per_image is None):
        return create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
    if cost and ended.ms_per_image is not None:
        return create_trial(values=[value, ended.ms_per_image], params=params, distributions=distributions)
    if ended.state == State.DONE:
        return create_trial(value=value, params=params, distributions=distributions)
    # Stopped early: Optuna holds it against others at the epoch that it has reached.
    steps = {line["epoch"]: line["validation_auroc"] for line in ended.history if "validation_auroc" in line}
    return create_trial(state=TrialState.PRUNED, params=params, distributions=distributions, intermediate_values=steps)


def importances(space: Space, trials: Iterable[Trial]) -> dict[str, float]:
    """How much of the differences in AUROC each setting explains (fANOVA), summing to 1; of those in every trial.

    Empty with fewer than four trials, or where nothing differs.
    """
    study = optuna.create_study(direction="maximize")
    known = 0
    for one in usable(trials):
        picked = _encoded(space, one.settings)
        if picked is not None:
            params, distributions = picked
            study.add_trial(create_trial(value=one.auroc, params=params, distributions=distributions))
            known += 1
    values = {trial.value for trial in study.trials}
    if known < 4 or len(values) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found: Mapping[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {path: float(share) for path, share in found.items()}


def _encoded(space: Space, settings: Values) -> tuple[dict[str, Any], dict[str, BaseDistribution]] | None:
    known = space.by_path()
    if not settings or not all(path in known and known[path].holds(value) for path, value in settings.items()):
        return None
    params = {path: json.dumps(value) if known[path].kind == "choice" else value for path, value in settings.items()}
    return params, {path: distribution(known[path]) for path in settings}


def distribution(one: Range) -> BaseDistribution:
    if one.kind == "choice":
        return CategoricalDistribution(one.labels)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)
