"""What Ray Serve is told about its way in, before it is imported."""

import os
import tempfile
from pathlib import Path

import pytest

from mri_ray.on_ray import ingress


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RAY_SERVE_"):
            monkeypatch.delenv(name)


def told() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")}


def test_a_machine_of_its_own_has_ports_and_files_of_its_own_and_leaves_none():
    with ingress.direct(idle_s=12.4):
        first = told()
        assert (first["RAY_SERVE_ENABLE_HA_PROXY"], first["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"]) == ("1", "12")
        ports = [int(value) for name, value in first.items() if name.endswith("_PORT")]
        assert len(set(ports)) == len(ports) == 3
        folder = Path(first["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
        assert folder.is_dir()
    assert not told()
    assert not folder.exists()


def test_what_somebody_has_set_stands(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    with ingress.direct(idle_s=1):
        assert told()["RAY_SERVE_HAPROXY_STATS_PORT"] == "1234"
    assert told() == {"RAY_SERVE_HAPROXY_STATS_PORT": "1234"}
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with ingress.direct(idle_s=1):
        assert len(told()) == 2


def test_a_folder_too_deep_for_a_socket_leaves_serves_own_proxy(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with ingress.direct(idle_s=1):
        assert not told()
