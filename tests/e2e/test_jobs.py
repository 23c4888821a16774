"""The jobs from outside: killed, fed with rubbish, submitted to a cluster."""

import io
import json
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def record(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())


def rows(output: Path):
    return pq.read_table(record(output)["results"].removeprefix("file://")).sort_by("row_id")


def test_the_demo(jobs, tmp_path):
    code, printed = jobs.run("demo", f"output={tmp_path}", "train.epochs=2")
    assert code == 0, printed
    assert "phantom" in printed
    for part in ("seed-7/train", "seed-7/score"):
        assert f"{tmp_path}/{part}/report.html" in printed
        counts = record(tmp_path / part)["counts"]
        assert counts["objects"] == counts["scored"] + counts["duplicate"] + counts["quarantined"] + counts["skipped"]
        assert "phantom" in (tmp_path / part / "report.html").read_text()


def settled(output: Path) -> dict[Path, int]:
    """The shards' tables with their times, once a worker that outlived its driver has written its last one."""
    before: dict[Path, int] = {}
    while (now := {path: path.stat().st_mtime_ns for path in output.glob("results/*/*.parquet")}) != before:
        before = now
        time.sleep(3)
    return now


def test_a_killed_scoring_goes_on_where_it_was(jobs, phantoms, bundle, tmp_path):
    given = [f"archive={phantoms}", f"bundle={bundle}", "shards.objects=20", "shards.workers=1"]
    code, printed = jobs.run("score", *given, f"output={tmp_path}/whole")
    assert code == 0, printed

    broken = tmp_path / "broken"
    process = jobs.start("score", *given, f"output={broken}")
    end = time.monotonic() + 120
    while len(finished := sorted(broken.glob("results/*/*.parquet"))) < 8:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    jobs.kill(process)
    finished = settled(broken)
    total = record(tmp_path / "whole")["this_run"]["shards"]
    assert 8 <= len(finished) < total
    left = record(broken)  # what a killed process leaves: it goes on saying that it runs, as of when it last did
    assert (left["state"], left["complete"]) == ("running", None)
    assert "results" not in left

    code, printed = jobs.run("score", *given, f"output={broken}")
    assert code == 0, printed
    assert record(broken)["this_run"]["shards_there"] == len(finished)
    assert record(broken)["this_run"]["shards"] == total - len(finished)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in finished.items())
    whole, again = rows(tmp_path / "whole"), rows(broken)
    assert again["row_id"].to_pylist() == whole["row_id"].to_pylist()
    assert len(set(again["row_id"].to_pylist())) == again.num_rows
    same = [name for name in whole.column_names if name != "run_id"]
    assert again.select(same).equals(whole.select(same))


def test_a_killed_training_goes_on_after_its_last_epoch(jobs, phantoms, tmp_path):
    given = [f"archive={phantoms}", f"labels={phantoms.parent}/labels.csv", "prepare.size=64", "model.input_size=64"]
    given += ["model.width=4", "model.blocks=4", "train.epochs=6", "train.workers=2", f"output={tmp_path}"]
    process = jobs.start("train", *given)
    seen = ""
    for line in process.stdout:
        seen += line
        if "epoch   3 of 6" in line:
            break
    else:
        pytest.fail(seen)
    jobs.kill(process)
    assert record(tmp_path)["state"] == "running"
    code, printed = jobs.run("train", *given)
    assert code == 0, printed
    assert "going on after epoch" in printed
    assert "epoch   1 of 6" not in printed
    assert [line["epoch"] for line in record(tmp_path)["history"]] == [1, 2, 3, 4, 5, 6]


def bad_files() -> dict[str, tuple[bytes, set[str]]]:
    """One file of each kind of damage, with the reasons that may be told for it."""
    picture = Image.fromarray((np.indices((300, 300)).sum(axis=0) % 251).astype(np.uint8))
    encoded = {}
    for kind in ("JPEG", "PNG", "TIFF", "BMP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        encoded[kind] = buffer.getvalue()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    buffer = io.BytesIO()
    picture.resize((8, 8)).save(buffer, "PNG")
    icon = buffer.getvalue()
    damaged = bytearray(encoded["PNG"])
    damaged[len(damaged) // 2] ^= 0xFF
    return {
        "empty.jpg": (b"", {"empty.object"}),
        "text.png": (b"this is no picture\n" * 40, {"unknown.format"}),
        "clip.jpg": (b"GIF89a" + bytes(60), {"unsupported.format"}),
        "bomb.png": (bomb, {"oversized.pixels"}),
        "cut.jpg": (encoded["JPEG"][: len(encoded["JPEG"]) // 2], {"truncated.image"}),
        "cut.png": (encoded["PNG"][: len(encoded["PNG"]) // 2], {"truncated.image"}),
        "cut.tif": (encoded["TIFF"][: len(encoded["TIFF"]) // 2], {"truncated.image", "damaged.image"}),
        "cut.bmp": (encoded["BMP"][: len(encoded["BMP"]) // 2], {"truncated.image"}),
        "flipped.png": (bytes(damaged), {"damaged.image", "truncated.image"}),
        "icon.png": (icon, {"undersized.image"}),
    }


def test_a_thousand_good_files_and_fifty_bad_ones(jobs, bundle, tmp_path):
    from mri_ray import phantom
    from mri_ray.archive.storage import Location

    archive = tmp_path / "images"
    phantom.write(Location.of(str(tmp_path)), phantom.PhantomConfig(patients=100, slices=10, second_study=0, seed=2))
    kinds = bad_files()
    expected = {}
    for i in range(5):
        for name, (data, reasons) in kinds.items():
            folder = archive / f"bad{i}"
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            expected[f"bad{i}/{name}"] = reasons
    assert len(expected) == 50

    given = [f"archive={archive}", f"bundle={bundle}", f"output={tmp_path}/out"]
    code, printed = jobs.run("score", *given)
    assert code == 0, printed
    counts = record(tmp_path / "out")["counts"]
    assert counts == {"objects": 1050, "scored": 1000, "quarantined": 50, "duplicate": 0, "skipped": 0}
    bad = {
        row["uri"].removeprefix(f"file://{archive}/"): row["reason"]
        for row in rows(tmp_path / "out").to_pylist()
        if row["state"] == "quarantined"
    }
    assert {name for name, reason in bad.items() if reason in expected[name]} == set(expected)

    code, printed = jobs.run("score", *given, "max_quarantined_fraction=0.04")
    assert code == 3
    last = printed.strip().splitlines()[-1]
    assert last.startswith(
        "TooManyQuarantined: max_quarantined_fraction: at most 0.04 of the objects may be quarantined"
    )
    assert "got 0.04762: 50 of 1050; " in last
