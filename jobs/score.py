"""Score a whole archive: `python -m jobs.score --config configs/score.yaml archive=URI bundle=URI output=URI ...`."""

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import ScoreRun


def main() -> None:
    settings = config.from_argv(ScoreRun)
    from mri_ray.on_ray import plan, score  # imports torch and Ray: after the settings are known to be right

    record = score.run(settings)
    if settings.dry_run:
        print(plan.text(record.values["plan"]))
        return
    print(f"results: {record.values['results']}\nreport: {record.values['report']}")


if __name__ == "__main__":
    raise SystemExit(started(main))
