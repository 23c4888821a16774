"""What may be learned by mistake: `python -m jobs.audit --config configs/audit.yaml archive=URI output=URI ...`."""

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import AuditRun


def main() -> None:
    settings = config.from_argv(AuditRun)
    from mri_ray.on_ray import audit  # imports Ray: after the settings are known to be right
    from mri_ray.report.audit import text

    record = audit.run(settings)
    print(f"{text(record.values['audit'])}\nreport: {record.values['report']}")


if __name__ == "__main__":
    raise SystemExit(started(main))
