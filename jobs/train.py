"""Train a bundle on an archive: `python -m jobs.train --config configs/train.yaml archive=URI output=URI ...`."""

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import TrainRun


def main() -> None:
    settings = config.from_argv(TrainRun)
    from mri_ray.on_ray import train  # imports torch and Ray: after the settings are known to be right

    record = train.run(settings)
    print(f"bundle: {record.values['bundle']}\nreport: {record.values['report']}")


if __name__ == "__main__":
    raise SystemExit(started(main))
