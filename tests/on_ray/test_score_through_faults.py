"""Objects that storage did not give in spite of retries: told by reason, tried again by the next run."""

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mri_ray import config
from mri_ray.archive.storage import Location
from mri_ray.errors import Reason
from mri_ray.on_ray import score
from mri_ray.on_ray.settings import ScoreRun


def rows(values: dict):
    filesystem, path = Location.of(values["results"]).arrow()
    return pq.read_table(path, filesystem=filesystem).sort_by("row_id").drop_columns("run_id")


def test_what_was_not_given_is_scored_by_the_next_run(ray_cluster, archive, trained, s3_server, s3_prefix, proxy):
    root = Location.of(s3_prefix)
    for path in sorted(archive.rglob("*")):
        if path.is_file():
            root.write(f"images/{path.relative_to(archive)}", path.read_bytes())
    lost = sum(key.endswith(".jpg") for key in root.keys("images/"))
    assert 0 < lost < 120

    def run(output: str, **storage) -> dict:
        given = {"archive": f"{root}/images", "bundle": trained["bundle"], "output": f"{root}/{output}"}
        given |= {"shards": {"objects": 40}, "storage": storage, "max_quarantined_fraction": 1.0}
        return score.run(config.build(ScoreRun, given)).values

    faulty = proxy(only=r"GET \S*\.jpg", slow_down=0.4, reset=0.3, cut=0.3)
    values = run("out", endpoint=faulty.endpoint, retries=0)
    assert values["counts"] == {"objects": 120, "scored": 120 - lost, "quarantined": lost, "duplicate": 0, "skipped": 0}
    assert values["reasons"] == {Reason.STORAGE_FAULT.value: lost}
    told = rows(values)
    assert set(told.filter(pc.is_valid(told["reason"]))["detail"].to_pylist()) == {"ConnectionError"}
    assert all(faulty.counts()[kind] for kind in ("slow_down", "reset", "cut"))

    values = run("out", endpoint=s3_server.endpoint)
    assert (values["this_run"]["objects"], values["this_run"]["quarantined"]) == (lost, 0)
    assert values["counts"]["scored"] == 120
    assert values["reasons"] == {}
    assert rows(values).equals(rows(run("clean", endpoint=s3_server.endpoint)))
