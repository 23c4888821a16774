"""The whole way on a synthetic archive, with nothing to fetch: `python -m jobs.demo [key=value ...]`."""

from pathlib import Path

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import TrainRun

SETTINGS = Path(__file__).parents[1] / "configs" / "demo.yaml"


def main() -> None:
    settings = config.from_argv(TrainRun, default=SETTINGS)
    from mri_ray.on_ray import demo  # imports torch and Ray: after the settings are known to be right

    print(demo.run(settings))


if __name__ == "__main__":
    raise SystemExit(started(main))
