"""STOW-RS, asked by the real dicomweb-client, and what is kept of it."""

import io
import json
import time

import httpx
import numpy as np
import pydicom
import pytest
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from served import served, small_bundle

from mri_ray.archive.storage import Location
from mri_ray.endpoint.kept import Keeper
from mri_ray.endpoint.lane import Lanes
from mri_ray.endpoint.settings import EndpointConfig, ResultsConfig
from mri_ray.errors import ConfigError
from tests.endpoint.small import lane_of

dicomweb = pytest.importorskip("dicomweb_client.api")
KEY = "a site key of the tests"
NAMES = ("SUSPICIOUS^NAME", "PID-4711")


def instance(study: str, number: int, *, sop_class: str = uids.MRImageStorage, modality: str = "MR") -> Dataset:
    y, x = np.mgrid[-1:1:72j, -1:1:64j]
    head = np.where(x**2 + y**2 < 0.7, 1500 + 900 * np.sin(3 * x + number), 0)
    pixels = (head + np.random.default_rng(number).integers(0, 200, head.shape)).astype(np.uint16)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{study}.1.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.PatientName, ds.PatientID = NAMES
    ds.Modality, ds.InstanceNumber = modality, number
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = pixels.tobytes()
    return ds


def encoded(ds: Dataset) -> bytes:
    held = io.BytesIO()
    pydicom.dcmwrite(held, ds, enforce_file_format=True)
    return held.getvalue()


@pytest.fixture
def study() -> str:
    return str(uids.generate_uid(entropy_srcs=[str(time.time_ns())]))[:50].rstrip(".")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def here(results):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRI_RAY_SITE_KEY", KEY)
        with served(small_bundle(), results=ResultsConfig(uri=str(results))) as found:
            yield found


@pytest.fixture(scope="module")
def client(here):
    return dicomweb.DICOMwebClient(f"{here.url}/dicom-web")


def asked(here, study: str, **params) -> httpx.Response:
    return httpx.get(f"{here.url}/v1/studies/{study}", params=params)


def referenced(reply: Dataset, name: str = "ReferencedSOPSequence") -> list[str]:
    return [item.ReferencedSOPInstanceUID for item in reply.get(name, [])]


def test_a_study_is_scored_and_found_again(here, client, results, study):
    sent = [instance(study, number) for number in (3, 1, 2)]
    reply = client.store_instances(sent)
    assert referenced(reply) == [ds.SOPInstanceUID for ds in sent]
    assert {item.ReferencedSOPClassUID for item in reply.ReferencedSOPSequence} == {uids.MRImageStorage}
    assert "FailedSOPSequence" not in reply

    found = asked(here, study).json()
    assert [one["instance_number"] for one in found["instances"]] == [1, 2, 3]
    assert found["bundles"] == [here.predictor.bundle.digest]
    files = [encoded(instance(study, number)) for number in (1, 2, 3)]
    said = [httpx.post(f"{here.url}/v1/predict", content=file).json()["slices"] for file in files]
    for one, expected in zip(found["instances"], said, strict=True):
        assert one["slices"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-6)
    # The study's answer is that of its slices together (the mean of its three highest).
    mean = np.mean([slices[0]["probability"] for slices in said])
    assert found["study"]["probability"] == pytest.approx(mean, abs=1e-6)
    assert found["study"]["slices"] == 3

    one = asked(here, study, instance=f"{study}.1.2").json()
    assert [each["instance_number"] for each in one["instances"]] == [2]
    assert asked(here, study, instance=f"{study}.1.9").status_code == 404


def test_nothing_that_names_anyone_is_kept_or_answered(here, client, results, study):
    client.store_instances([instance(study, 1)])
    kept = [(path.relative_to(results).as_posix(), path.read_text()) for path in results.rglob("*") if path.is_file()]
    assert kept
    for text in (*(text for entry in kept for text in entry), asked(here, study).text):
        assert not any(name in text for name in (study, *NAMES))


def test_what_comes_in_several_requests_is_one_study(here, client, study):
    client.store_instances([instance(study, 1)], study)
    client.store_instances([instance(study, 2), instance(study, 1)], study)
    assert [one["instance_number"] for one in asked(here, study).json()["instances"]] == [1, 2]


@pytest.fixture
def changing(tmp_path, monkeypatch):
    """An endpoint of its own, and two bundles that differ in their operating points."""
    monkeypatch.setenv("MRI_RAY_SITE_KEY", KEY)
    first, second = (lane_of(small_bundle(threshold=threshold)) for threshold in (0.4, 0.6))
    with served(first.bundle, results=ResultsConfig(uri=str(tmp_path))) as here:
        here.app.state.service.use(Lanes(lanes=[first]))
        yield here, first, second


def test_a_study_is_summed_up_of_one_bundles_answers_and_tells_of_the_others(changing, study):
    here, first, second = changing
    store(here, *(encoded(instance(study, number)) for number in (1, 2, 3)))
    assert asked(here, study).json()["left_out"] == {}
    here.app.state.service.use(Lanes(lanes=[second]))
    store(here, encoded(instance(study, 2)))
    found = asked(here, study).json()
    by = [one["bundle"] for one in found["instances"]]
    assert by == [first.bundle.digest, second.bundle.digest, first.bundle.digest]
    assert (found["bundle"], found["left_out"]) == (second.bundle.digest, {first.bundle.digest: 2})
    assert found["study"]["slices"] == 1
    assert found["study"]["probability"] == found["instances"][1]["slices"][0]["probability"]
    assert found["operating_point"]["threshold"] == 0.6
    alone = asked(here, study, instance=f"{study}.1.3").json()
    assert (alone["bundle"], alone["left_out"], alone["study"]["slices"]) == (first.bundle.digest, {}, 1)


def test_a_study_in_parts_is_one_bundles_where_several_share_the_traffic(changing):
    here, first, second = changing
    here.app.state.service.use(Lanes(lanes=[first, second]))
    studies = [f"1.2.826.0.1.3680043.8.498.{number}" for number in range(6)]
    for number in range(3):
        store(here, *(encoded(instance(one, number)) for one in studies))
    found = [asked(here, one).json() for one in studies]
    assert [one["study"]["slices"] for one in found] == [3] * 6
    assert {one["bundle"] for one in found} == {first.bundle.digest, second.bundle.digest}


def test_another_replica_finds_it(client, results, study, monkeypatch):
    client.store_instances([instance(study, 1)])
    monkeypatch.setenv("MRI_RAY_SITE_KEY", KEY)
    with served(small_bundle(), results=ResultsConfig(uri=str(results))) as other:
        assert asked(other, study).json()["study"]["slices"] == 1


def store(here, *parts: bytes, to: str = "", kind: str = 'multipart/related; type="application/dicom"; boundary=b'):
    body = b"".join(b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + part for part in parts) + b"\r\n--b--"
    url = f"{here.url}/dicom-web/studies{to}"
    return httpx.post(url, content=body, headers={"Content-Type": kind, "Accept": "application/dicom+json"})


def test_what_fails_is_told_beside_what_does_not(here, study):
    good, other = instance(study, 1), instance(study + "9", 2)
    scan = instance(study, 3, sop_class=uids.CTImageStorage, modality="CT")
    broken = instance(study, 4)
    broken.PixelData = broken.PixelData[:100]
    reply = store(here, *map(encoded, (good, other, scan, broken)), b"no DICOM", to=f"/{study}")
    assert reply.status_code == 202
    assert reply.headers["content-type"] == "application/dicom+json"
    told = Dataset.from_json(reply.json())
    assert referenced(told) == [good.SOPInstanceUID]
    failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.FailedSOPSequence}
    assert failed == {other.SOPInstanceUID: 0xA900, scan.SOPInstanceUID: 0x0122, broken.SOPInstanceUID: 0xC000}
    assert [item.FailureReason for item in told.OtherFailuresSequence] == [0xC000]
    assert asked(here, study).json()["study"]["slices"] == 1
    assert asked(here, study + "9").status_code == 404


def test_a_frame_that_fails_is_a_warning(here, study):
    ds = instance(study, 1, sop_class=uids.EnhancedMRImageStorage)
    ds.compress(uids.RLELossless, generate_instance_uid=False)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    ds.NumberOfFrames, ds.PixelData = 3, encapsulate([frame, b"no picture" * 10, frame])
    reply = store(here, encoded(ds))
    assert reply.status_code == 202
    (item,) = Dataset.from_json(reply.json()).ReferencedSOPSequence
    assert item.WarningReason == 0xB006
    (one,) = asked(here, study).json()["instances"]
    assert [each["frame"] for each in one["slices"]] == [0, 2]
    assert [each["frame"] for each in one["failed"]] == [1]


def test_none_scored_is_a_conflict(here, study):
    scan = instance(study, 1, sop_class=uids.CTImageStorage, modality="CT")
    reply = store(here, encoded(scan))
    assert reply.status_code == 409
    assert referenced(Dataset.from_json(reply.json()), "FailedSOPSequence") == [scan.SOPInstanceUID]


@pytest.mark.parametrize(
    ("kind", "to", "status"),
    [
        ("application/dicom", "", 415),
        ("multipart/related", "", 400),
        ("multipart/related; boundary=other", "", 400),
        ('multipart/related; type="application/dicom+xml"; boundary=b', "", 415),
        ("multipart/related; boundary=b", "/no-uid", 422),
    ],
)
def test_other_requests_are_refused(here, study, kind, to, status):
    reply = store(here, encoded(instance(study, 1)), to=to, kind=kind)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of such UIDs
@pytest.mark.parametrize("uid", ["1.2.3.4a", "1..2", "1." + "2" * 63, ""])
def test_what_could_not_be_asked_for_is_not_taken_in(here, uid):
    ds = instance("1.2", 1)
    ds.StudyInstanceUID = uid
    reply = store(here, encoded(ds))
    assert reply.status_code == 409
    assert [one["00081197"]["Value"] for one in reply.json()["0008119A"]["Value"]] == [[0xC000]]


def test_answers_that_cannot_be_kept_do_not_count(tmp_path, study, monkeypatch):
    monkeypatch.setenv("MRI_RAY_SITE_KEY", KEY)
    (tmp_path / "results").write_text("a file where the folder would be")
    with served(small_bundle(), results=ResultsConfig(uri=str(tmp_path / "results"))) as here:
        reply = store(here, encoded(instance(study, 1)))
    assert reply.status_code == 409
    assert Dataset.from_json(reply.json()).FailedSOPSequence[0].FailureReason == 0xA700


def test_answers_go_when_their_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setenv("MRI_RAY_SITE_KEY", KEY)
    keeper = Keeper(EndpointConfig(results=ResultsConfig(uri=str(tmp_path), keep_hours=1)))
    assert keeper.sweep(0) == 0
    (tmp_path / "others.json").write_text("not ours")
    keeper.keep("1.2.3", {"a": {"n": 1}, "b": {"n": 1}}, now_ms=1_000)
    keeper.keep("1.2.3", {"b": {"n": 2}}, now_ms=2_000)
    keeper.keep("1.2.3.4", {"c": {"n": 3}}, now_ms=3_000)
    found = keeper.look("1.2.3", now_ms=3_000)
    assert list(found.instances.items()) == [("a", {"n": 1}), ("b", {"n": 2})]
    assert found.expires_ms == 3_602_000
    assert keeper.look("1.2.3", now_ms=3_601_500).instances == {"b": {"n": 2}}
    assert keeper.look("1.2.3", now_ms=3_602_000) is None
    keeper.keep("1.2.3", {"a": {"n": 4}}, now_ms=2_500)
    assert list(keeper.look("1.2.3", now_ms=3_000).instances.items()) == [("b", {"n": 2}), ("a", {"n": 4})]
    assert keeper.sweep(3_602_600) == 3
    assert keeper.look("1.2.3.4", now_ms=3_602_000).instances == {"c": {"n": 3}}
    left = [name for batch in Location.of(str(tmp_path)).list() for name in batch["key"].to_pylist()]
    assert len(left) == 2
    assert "others.json" in left


def test_a_site_key_is_needed(tmp_path, monkeypatch):
    monkeypatch.delenv("MRI_RAY_SITE_KEY", raising=False)
    monkeypatch.delenv("MRI_RAY_SITE_KEY_FILE", raising=False)
    with pytest.raises(ConfigError, match="MRI_RAY_SITE_KEY"):
        Keeper(EndpointConfig(results=ResultsConfig(uri=str(tmp_path))))


def test_without_a_place_there_are_no_such_routes():
    with served(small_bundle()) as here:
        assert httpx.post(f"{here.url}/dicom-web/studies").status_code == 404
        assert "/dicom-web/studies" not in json.dumps(httpx.get(f"{here.url}/openapi.json").json())
