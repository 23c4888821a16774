"""Search for the best training: `python -m jobs.tune --config configs/tune.yaml archive=URI output=URI ...`."""

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import TuneRun


def main() -> None:
    settings = config.from_argv(TuneRun)
    from mri_ray.on_ray import tune  # imports torch and Ray: after the settings are known to be right

    record = tune.run(settings)
    places = record.values
    print(f"bundle: {places['bundle']}\nbest settings: {places['search']['best']}\nreport: {places['report']}")


if __name__ == "__main__":
    raise SystemExit(started(main))
