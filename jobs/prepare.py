"""An archive to packed shards: `python -m jobs.prepare --config configs/prepare.yaml archive=URI output=URI ...`."""

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import PrepareRun


def main() -> None:
    settings = config.from_argv(PrepareRun)
    from mri_ray.on_ray import plan, prepare  # imports Ray: after the settings are known to be right

    record = prepare.run(settings)
    if settings.dry_run:
        print(plan.text(record.values["plan"]))
        return
    print(f"prepared: {record.values['prepared']}\nledger: {record.values['ledger']}")


if __name__ == "__main__":
    raise SystemExit(started(main))
