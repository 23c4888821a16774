"""A hospital's archive through the jobs: every object in its state, every pixel in its place, and no name anywhere."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hospital import Hospital, build
from hospital.bad import BAD

from mri_ray.archive.pseudonym import SITE_KEY, SITE_KEY_FILE
from mri_ray.archive.storage import Location
from mri_ray.learn import bundle as bundles
from mri_ray.learn.model import build as build_network
from mri_ray.learn.settings import ModelConfig
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Flag, Slice, State

pytestmark = pytest.mark.slow

OBJECTS = 240
BOTH = ["identifiers=pseudonym", "uris=pseudonym"]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    """Phantoms in every format, and every way of being bad."""
    root = tmp_path_factory.mktemp("site") / "archive"
    return build(root, objects=OBJECTS, bad=len(BAD) / OBJECTS, seed=3)


@pytest.fixture(params=["phantoms", "LGG"])
def either(request, hospital, tmp_path_factory) -> Hospital:
    """The same of real slices too."""
    if request.param == "phantoms":
        return hospital
    source = request.getfixturevalue("mri_data") / "lgg"
    root = tmp_path_factory.mktemp("site") / "archive"
    return build(root, objects=OBJECTS, bad=len(BAD) / OBJECTS, seed=4, source=source)


@pytest.fixture(scope="module")
def bundle(hospital, tmp_path_factory) -> Path:
    """A bundle whose answers differ from picture to picture: fresh weights, with the statistics of these pictures."""
    config = ModelConfig(width=4)
    network = build_network(config, seed=1)
    pictures = [Slice(pixels=hospital.pixels(origin).astype(np.float32), bits=8) for origin in hospital.pictures]
    batch = torch.from_numpy(np.stack([prepare(picture, PrepareConfig()).pixels for picture in pictures[:64]]))
    with torch.no_grad():
        for _ in range(50):  # each batch moves the running statistics by a tenth
            network.train()(batch / 255)
    folder = tmp_path_factory.mktemp("bundle")
    bundles.save(
        bundles.Bundle(model=config, prepare=PrepareConfig(), weights=network.state_dict()), Location.of(str(folder))
    )
    return folder


@pytest.fixture
def site_key(monkeypatch):
    monkeypatch.setenv(SITE_KEY, "the key of a site that does not exist")


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


def table(uri: str):
    return pq.read_table(uri.removeprefix("file://"))


def by_key(results, archive: Path) -> dict[str, list[dict]]:
    """The rows of each object, in the order of their frames."""
    found: dict[str, list[dict]] = {}
    for row in results.to_pylist():
        found.setdefault(row["uri"].removeprefix(f"file://{archive}/"), []).append(row)
    return found


def opened(hospital: Hospital) -> int:
    """How many packs give members; one that cannot be opened is an object."""
    return len({key.partition("!/")[0] for key in hospital.expected if "!/" in key})


def text_of(path: Path) -> bytes:
    """What a file says to a person: Parquet unpacked, with the statistics and metadata in its footer."""
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        content = pq.ParquetFile(path)
        columns = [name for name in content.schema_arrow.names if name != "pixels"]
        return repr((content.read(columns).to_pydict(), content.metadata.to_dict())).encode()
    return data


def leaks(hospital: Hospital, *folders: Path) -> dict[str, list[str]]:
    """Which files below the folders hold what was planted."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    names = "\n".join(str(path) for path in files).encode()
    if not hospital.leaks(names + b"\n".join(map(text_of, files))):  # at once, since each look takes a second
        return {}
    return {str(path): found for path in files if (found := hospital.leaks(str(path).encode() + text_of(path)))}


def test_every_object_ends_as_it_must(jobs, either, bundle, tmp_path, site_key):
    hospital = either
    given = [f"archive={hospital.root}", f"bundle={bundle}", f"output={tmp_path}/out", "precision=fp32"]
    code, printed = jobs.run("score", *given, *hospital.overrides, "max_quarantined_fraction=0.5")
    assert code == 0, printed
    values = record(tmp_path / "out")
    assert values["counts"] == {name: hospital.counts[name] for name in ("objects", *State)}
    assert values["packs"] == opened(hospital)
    assert {name: values["prefixes"]["whole"][name] for name in values["counts"]} == values["counts"]
    page = (tmp_path / "out" / "report.html").read_text()
    told = page[page.index('<section id="cases">') : page.index('<section id="objects">')]
    assert all(f"<h3><code>{reason}</code></h3>" in told for reason in values["reasons"])
    assert page.count("<figcaption>copy<br>") > 0
    assert len(page) < 5_000_000

    results = table(values["results"])
    assert len(set(results["row_id"].to_pylist())) == results.num_rows
    found = by_key(results, hospital.root)
    assert set(found) == set(hospital.expected)
    differing = {}
    for key, expected in hospital.expected.items():
        rows = found[key]
        slices = [row for row in rows if row["reason"] is None]
        failed = {row["frame"]: row["reason"] for row in rows if row["reason"] is not None}
        if expected.reason is not None:
            want = (expected.state.value, 0, [expected.reason.value])
            got = (rows[0]["state"], len(slices), list(failed.values()))
        else:
            want = (expected.state.value, expected.slices, dict(expected.failed))
            got = (rows[0]["state"], len(slices), failed)
        flags = set().union(*(row["flags"] for row in rows))
        must = {*expected.flags, *([Flag.NAMED_PATH] if expected.named_path else [])}
        if want != got or not must <= flags:
            differing[expected.kind, key] = (want, got, flags)
    assert not differing, "\n".join(f"{name} {what}" for name, what in differing.items())

    # The numbers are those of the source pictures, whatever they were wrapped in.
    predictor = Predictor(bundles.load(Location.of(str(bundle))), precision="fp32")
    pairs = []
    for key, expected in hospital.expected.items():
        slices = [row for row in found[key] if row["reason"] is None]
        for frame, row in zip(expected.frames, slices, strict=True):
            pixels = hospital.pixels(frame.origin).astype(np.float32)
            pairs.append((expected, row, prepare(Slice(pixels=pixels, bits=expected.bits), predictor.bundle.prepare)))
    answers = predictor.predict(np.stack([prepared.pixels for _, _, prepared in pairs]))
    far = Counter()
    for (expected, row, _), probability in zip(pairs, answers.probability.tolist(), strict=True):
        bound = (1e-6 if expected.bits == 8 else 2e-3) if expected.exact else 2e-2  # deep; compressed with loss
        if not abs(row["probability"] - probability) <= bound:
            far[expected.kind] += 1
    assert not far
    assert np.ptp(answers.logit) > 0.05

    warned = [line for line in printed.splitlines() if "repeat a name or id of their headers" in line]
    assert len(warned) == 1
    assert not hospital.leaks(warned[0].encode())
    studies = table(values["studies"])
    assert studies.num_rows > 5
    assert sum(studies["slices"].to_pylist()) == sum(row["study_key"] is not None for _, row, _ in pairs)


def test_without_a_key_nothing_is_written(jobs, hospital, bundle, tmp_path, monkeypatch):
    monkeypatch.delenv(SITE_KEY, raising=False)
    monkeypatch.delenv(SITE_KEY_FILE, raising=False)
    given = [f"archive={hospital.root}", f"bundle={bundle}", f"output={tmp_path}/out"]
    code, printed = jobs.run("score", *given, *hospital.overrides)
    assert code == 2
    last = printed.strip().splitlines()[-1]
    assert last.startswith("IdentifierError: ")
    assert "MRI_RAY_SITE_KEY" in last
    assert "identifiers=drop" in last
    # Nothing of the archive, that is: why the run failed is told in run.json, too.
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {"run.json", "begun.json"}
    assert record(tmp_path / "out")["error"]["kind"] == "IdentifierError"
    assert leaks(hospital, tmp_path / "out") == {}


def test_no_name_leaves_and_studies_are_learned(jobs, hospital, tmp_path, site_key):
    out, linkage = tmp_path / "out", tmp_path / "linkage"
    given = [f"archive={hospital.root}", f"linkage={linkage}", *BOTH, *hospital.overrides]
    lenient, small = ["max_quarantined_fraction=0.5"], ["prepare.size=64"]
    code, printed = jobs.run("prepare", *given, *lenient, *small, f"output={out}/prepared")
    assert code == 0, printed
    log = printed
    prepared = record(out / "prepared")
    assert prepared["counts"] == {name: hospital.counts[name] for name in ("objects", *State)}
    ledger = table(prepared["ledger"])
    assert {row["state"] for row in ledger.to_pylist()} == {state.value for state in State}
    assert all(uri.startswith("object:") for uri in ledger["uri"].to_pylist())

    small += ["model.input_size=64", "model.width=4", "model.blocks=4", "train.epochs=1", "split.test=0.3"]
    training = [*given, *lenient, *small, f"cache={out}/prepared"]
    code, printed = jobs.run("train", *training, f"labels={hospital.labels_csv['study']}", f"output={out}/train")
    assert code == 0, printed
    assert "prepared 0 of" not in printed
    log += printed
    trained = record(out / "train")
    assert trained["this_run"]["objects"] == 0  # all of it came from the cache
    assert trained["leakage"]["crossing"] == 0
    assert any("by a label of their whole study" in warning for warning in trained["warnings"])
    figures = trained["levels"]["study"]["train"]
    assert figures["estimable"]
    assert figures["confusion"]["tp"] + figures["confusion"]["fn"] > 0

    # Runs that fail: labels of nothing here, an archive with too many bad objects.
    (tmp_path / "labels.csv").write_text(f"study_uid,label\n{hospital.planted[0]},tumor\n")
    code, printed = jobs.run("train", *training, f"labels={tmp_path}/labels.csv", f"output={out}/failed")
    assert code == 2, printed
    log += printed
    code, printed = jobs.run("score", *given, f"bundle={trained['bundle']}", f"output={out}/score")
    assert code == 3, printed
    log += printed
    assert record(out / "score")["prefixes"] is None
    page = (out / "score" / "report.html").read_text()
    assert "Paths are not kept" in page
    assert '<section id="cases">' in page

    assert not hospital.leaks(log.encode())
    assert leaks(hospital, out, *jobs.ray_folders) == {}
    assert leaks(hospital, linkage)  # what leads back is there, and only there


def test_paths_are_kept_where_they_should_be(jobs, hospital, bundle, tmp_path, site_key):
    """With paths kept, nothing but paths repeats what was planted."""
    given = [f"archive={hospital.root}", f"bundle={bundle}", f"output={tmp_path}/out", *hospital.overrides]
    code, printed = jobs.run("score", *given, "max_quarantined_fraction=0.5")
    assert code == 0, printed
    rows = table(record(tmp_path / "out")["results"])
    others = [name for name in rows.column_names if name not in ("uri", "member")]
    assert not hospital.leaks(repr(rows.select(others).to_pydict()).encode())
    assert not hospital.leaks(printed.encode())


@pytest.mark.timeout(3000)
def test_on_s3_at_size(jobs, bundle, s3_server, s3_prefix, tmp_path, site_key, mri_data, capsys):
    """Real slices of many patients, as many objects as MRI_HOSPITAL says (1,500; the README's figures: 5,000)."""
    import s3fs

    objects = int(os.environ.get("MRI_HOSPITAL", "1500"))
    hospital = build(tmp_path / "archive", objects=objects, bad=0.05, seed=5, source=mri_data / "lgg")
    s3fs.S3FileSystem(endpoint_url=s3_server.endpoint).put(str(hospital.root), f"{s3_prefix}/archive", recursive=True)
    given = [f"archive={s3_prefix}/archive", f"bundle={bundle}", f"output={s3_prefix}/out"]
    given += [*BOTH, f"linkage={s3_prefix}/linkage", *hospital.overrides]
    code, printed = jobs.run("score", *given)
    assert code == 0, printed
    output = Location.of(f"{s3_prefix}/out")
    output_files = {key: output.read(key) for key in output.keys()}  # noqa: SIM118
    values = json.loads(output_files["run.json"])
    assert values["counts"] == {name: hospital.counts[name] for name in ("objects", *State)}
    assert values["packs"] == opened(hospital)
    copies = tmp_path / "out"
    for key, data in output_files.items():
        (copies / key).parent.mkdir(parents=True, exist_ok=True)
        (copies / key).write_bytes(data)
    assert leaks(hospital, copies, *jobs.ray_folders) == {}
    assert not hospital.leaks(printed.encode())
    with capsys.disabled():
        print("\n{objects} objects, {objects_per_s} a second, peak {peak_mb} MB a worker".format(**values["this_run"]))


def test_a_linkage_that_does_not_lead_back_is_named(jobs, hospital, bundle, tmp_path, site_key):
    given = [f"archive={hospital.root}", f"bundle={bundle}", f"output={tmp_path}/out", *BOTH, *hospital.overrides]
    given += ["max_quarantined_fraction=0.5"]
    code, printed = jobs.run("score", *given, f"linkage={tmp_path}/one")
    assert code == 0, printed
    code, printed = jobs.run("score", *given, f"linkage={tmp_path}/other")
    assert code == 2
    last = printed.strip().splitlines()[-1]
    assert last.startswith("ArchiveError: linkage: must be the one these rows were made with")
    assert not hospital.leaks(printed.encode())
