"""cluster.yaml against Ray's own schema and our own promises; nothing is started."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load(CLUSTER.read_text())


def test_ray_accepts_it(cluster):
    from ray.autoscaler._private import util

    util.validate_config(util.prepare_config(cluster))


def test_ray_would_refuse_an_unknown_key(cluster):
    import jsonschema
    from ray.autoscaler._private import util

    with pytest.raises(jsonschema.ValidationError, match="no_such_key"):
        util.validate_config(util.prepare_config(cluster | {"no_such_key": 1}))


def test_every_node_starts_with_a_token(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        started = [command for command in cluster[name] if "ray start" in command]
        assert started
        assert all("RAY_AUTH_MODE=token" in command for command in started)


def test_workers_come_and_go_and_the_head_does_no_work(cluster):
    kinds = cluster["available_node_types"]
    head = kinds.pop(cluster["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert set(kinds) == {"cpu_worker", "gpu_worker"}
    for kind in kinds.values():
        assert kind["min_workers"] == 0
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert sum(kind["max_workers"] for kind in kinds.values()) <= cluster["max_workers"]
