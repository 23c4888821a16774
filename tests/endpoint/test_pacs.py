"""A real PACS (Debian's `orthanc` with `orthanc-dicomweb`) that sends a study to the endpoint."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import served, small_bundle

from mri_ray.endpoint.settings import ResultsConfig
from tests.endpoint.test_dicomweb import KEY, encoded, instance
from tests.ports import free_ports

ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ORTHANC is None or not DICOMWEB.exists(), reason="needs orthanc and orthanc-dicomweb"),
]
STUDY = "1.2.840.99999.7"


@pytest.fixture
def endpoint(tmp_path, monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("MRI_RAY_SITE_KEY", KEY)
    with served(small_bundle(), results=ResultsConfig(uri=str(tmp_path / "results"))) as here:
        yield here.url


@pytest.fixture
def pacs(tmp_path, endpoint) -> Iterator[str]:
    """Orthanc's own HTTP address; it knows the endpoint as `mri_ray`."""
    (port,) = free_ports(1)
    told = {
        "StorageDirectory": str(tmp_path / "pacs"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Servers": {"mri_ray": {"Url": f"{endpoint}/dicom-web/", "HasDelete": False}}},
    }
    (tmp_path / "pacs.json").write_text(json.dumps(told))
    with (tmp_path / "pacs.log").open("w") as log:
        process = subprocess.Popen([ORTHANC, tmp_path / "pacs.json"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not is_up(f"http://127.0.0.1:{port}/system"):
            assert time.monotonic() < end, (tmp_path / "pacs.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def is_up(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_a_study_that_it_sends_is_scored(pacs, endpoint):
    for number in range(5):
        assert httpx.post(f"{pacs}/instances", content=encoded(instance(STUDY, number))).status_code == 200
    (known,) = httpx.get(f"{pacs}/studies").json()
    sent = httpx.post(f"{pacs}/dicom-web/servers/mri_ray/stow", json={"Resources": [known]}, timeout=60)
    assert (sent.status_code, sent.json()["InstancesCount"]) == (200, "5")
    answered = httpx.get(f"{endpoint}/v1/studies/{STUDY}").json()
    assert answered["study"]["slices"] == 5
    for number in range(5):
        alone = httpx.post(f"{endpoint}/v1/predict", content=encoded(instance(STUDY, number))).json()["slices"][0]
        kept = httpx.get(f"{endpoint}/v1/studies/{STUDY}", params={"instance": f"{STUDY}.1.{number}"}).json()
        assert str(alone["probability"]) in json.dumps(kept)
