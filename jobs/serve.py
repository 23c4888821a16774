"""The endpoint on this machine, over loopback: `python -m jobs.serve bundle=URI port=N [key=value ...]`."""

from jobs import started
from mri_ray import config
from mri_ray.on_ray.settings import ServeRun


def main() -> None:
    settings = config.from_argv(ServeRun)
    from mri_ray.on_ray import serve_here  # imports torch and Ray: after the settings are known to be right

    serve_here.run(settings, ready=lambda url: print(f"endpoint: {url}", flush=True))


if __name__ == "__main__":
    raise SystemExit(started(main))
