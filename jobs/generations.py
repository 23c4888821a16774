"""What an output of scorings holds, and the way back: `python -m jobs.generations output=URI [use=GENERATION]`."""

from jobs import started
from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.on_ray.settings import GenerationsRun


def main() -> None:
    settings = config.from_argv(GenerationsRun)
    from mri_ray.predict import generations  # heavier than settings: after these are known to be right

    output = Location.of(settings.output, settings.storage)
    if settings.use:
        generations.use(output, settings.use)
    print(generations.table(generations.found(output)))


if __name__ == "__main__":
    raise SystemExit(started(main))
