"""Generations below an output: listed, gone back to, and removed by the setting alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mri_ray.archive import runs
from mri_ray.archive.identity import digest
from mri_ray.archive.settings import KeepConfig
from mri_ray.archive.storage import Location
from mri_ray.errors import ArchiveError, ConfigError
from mri_ray.predict import generations, snapshot

ROOT = Path(__file__).parents[2]
ALL = KeepConfig(generations=None, runs=None)


class Output:
    """An output on which real scorings are published; `night` is one of them, over the archive as it is then."""

    def __init__(self, scored, root: Location) -> None:
        self.scored = scored
        self.root = root
        self.nights = 0

    def begun(self, bundle: str, run_id: str):
        return runs.begun(self.root, run_id, digest(bundle))

    def night(self, bundle: str) -> str:
        self.nights += 1
        run_id = f"score-{self.nights}"
        scored = self.scored
        scored.results = self.root / "results" / digest(bundle)
        with self.begun(bundle, run_id) as begun:
            scored.take_stock()
            scored.score()
            found = snapshot.build(scored.manifest.pinned(), scored.results, self.root / "snapshots")
            begun.note(results=found.uri)
            record = {"run_id": run_id, "started": f"2026-01-0{self.nights}T02:00:00+00:00", "results": found.uri}
            record |= {"counts": found.counts, "bundle_digest": digest("bundle", bundle)}
            record |= {"manifest": scored.manifest.name, "listing": scored.manifest.number}
            folder = runs.place(self.root, run_id)
            folder.write("studies.parquet", run_id.encode())
            folder.write(runs.RECORD, json.dumps(record).encode())
            assert runs.publish(self.root, run_id)
        return found.uri

    def change(self, number: int) -> None:
        self.scored.put(**{f"new{number}": self.scored.picture(number)})

    def files(self) -> dict[str, bytes]:
        return {key: self.root.read(key) for key in self.root.keys()}  # noqa: SIM118

    def there(self, folder: str) -> set[str]:
        return {key.split("/")[1] for key in self.root.keys(f"{folder}/")}


@pytest.fixture
def output(scored, tmp_path) -> Output:
    scored.put(a=scored.picture(1), b=scored.picture(2))
    return Output(scored, Location.of(str(tmp_path / "output")))


def test_going_back_and_forth(output):
    output.night("one")
    first = output.files()
    output.night("two")
    second = output.files()
    assert second["run.json"] != first["run.json"]
    shown = generations.table(generations.found(output.root))
    lines = [line.split() for line in shown.splitlines()]
    assert lines[1][:3] == ["*", digest("two")[:12], digest("bundle", "two")[:12]]
    assert lines[2][:3] == [digest("one")[:12], digest("bundle", "one")[:12], "2026-01-01T02:00"]
    assert lines[2][3:5] == ["2", "2"]

    generations.use(output.root, digest("one"))
    back = output.files()
    assert {key: back[key] for key in ("run.json", "studies.parquet")} == {
        key: first[key] for key in ("run.json", "studies.parquet")
    }
    assert [each.current for each in generations.found(output.root)] == [False, True]
    generations.use(output.root, digest("two")[:6])
    assert output.files() == second


def test_the_command(output):
    output.night("one")
    first = output.files()["run.json"]
    output.night("two")

    def command(*pairs: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "jobs.generations", f"output={output.root.uri}", *pairs]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    listed = command()
    assert listed.stdout.strip() == generations.table(generations.found(output.root)).strip()
    back = command(f"use={digest('one')[:8]}")
    assert (back.returncode, output.files()["run.json"]) == (0, first)
    marked = next(line for line in back.stdout.splitlines() if line.startswith("*"))
    assert digest("one")[:12] in marked
    refused = command("use=nothing")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("ConfigError: use: must name one complete generation")


def test_what_cannot_be_gone_back_to_is_refused(output):
    uri = output.night("one")
    with output.begun("two", "score-unfinished"):
        pass
    for name in (digest("two"), "nothing", "../.."):
        with pytest.raises(ConfigError, match=rf"use: must name one complete generation.*{digest('one')[:12]}"):
            generations.use(output.root, name)
    assert "incomplete" in generations.table(generations.found(output.root))
    next(Path(uri.removeprefix("file://")).glob("part-*")).unlink()
    before = output.files()
    with pytest.raises(ArchiveError, match="must be whole"):
        generations.use(output.root, digest("one"))
    assert output.files() == before


def test_the_size_of_a_generation_is_that_of_its_files(output):
    output.night("one")
    (only,) = generations.found(output.root)
    owned = [data for key, data in output.files().items() if "/" in key]
    assert only.size == sum(map(len, owned))


def test_nothing_is_removed_unless_the_setting_says_so(output):
    for number, bundle in enumerate(("one", "two", "one", "two")):
        output.change(10 + number)
        output.night(bundle)
    before = output.files()
    generations.retire(output.root, ALL)
    generations.retire(output.root, KeepConfig(generations=2))
    assert output.files() == before


def test_the_oldest_generations_go_but_not_the_current_one(output, caplog):
    for bundle in ("one", "two", "three", "four"):
        output.night(bundle)
    generations.use(output.root, digest("one"))
    before = output.files()
    with caplog.at_level("INFO"):
        generations.retire(output.root, KeepConfig(generations=2, runs=None))
    assert output.there("results") == {digest("one"), digest("four")}
    assert output.there("runs") == {"score-1", "score-4"}
    assert len(output.there("snapshots")) == 2
    after = output.files()
    assert {key: before[key] for key in after} == after
    said = [record.getMessage() for record in caplog.records if "keep: removed generation" in record.getMessage()]
    assert len(said) == 2
    lost = before.keys() - after.keys()
    assert sum(int(text.split(": ")[2].split(" files")[0]) for text in said) == len(lost)
    generations.use(output.root, digest("four"))


def test_superseded_runs_go_with_the_snapshots_that_no_other_needs(output):
    uris = []
    for night in range(4):
        if night != 2:  # a night on which nothing happened shares its snapshot with the one before
            output.change(10 + night)
        uris.append(output.night("one"))
    assert uris[1] == uris[2]
    results = output.there("results")
    generations.retire(output.root, KeepConfig(runs=2))
    assert output.there("runs") == {"score-3", "score-4"}
    assert output.there("snapshots") == {uri.rpartition("/")[2] for uri in uris[2:]}
    assert output.there("results") == results
    assert all(snapshot.finished(Location.of(uri)) for uri in uris[2:])


def test_what_a_run_works_on_stays(output):
    output.night("one")
    output.change(10)
    output.night("one")
    output.night("two")
    before = output.files()
    with output.begun("one", "score-at-work"):
        generations.retire(output.root, KeepConfig(generations=1, runs=1))
        assert {key for key in output.files() if "at-work" not in key} == before.keys()
        assert "at work" in generations.table(generations.found(output.root))
        killed = runs.place(output.root, "score-at-work").read(runs.BEGUN)
    runs.place(output.root, "score-at-work").write(runs.BEGUN, killed)  # a run that is killed says nothing more
    generations.retire(output.root, KeepConfig(generations=1, runs=1))
    assert {key for key in output.files() if "at-work" not in key} == before.keys()
    with pytest.raises(RuntimeError), output.begun("one", "score-at-work"):
        raise RuntimeError
    generations.retire(output.root, KeepConfig(generations=1, runs=1))
    assert output.there("results") == {digest("two")}
    assert output.there("runs") == {"score-3"}


def test_what_is_incomplete_is_never_removed(output):
    with output.begun("one", "score-out-of-time"):
        (output.root / "results" / digest("one")).write("some.parquet", b"done so far")
    output.night("two")
    before = output.files()
    generations.retire(output.root, KeepConfig(generations=1, runs=1))
    assert output.files() == before


def test_a_name_from_a_file_leads_nowhere_else(output, tmp_path):
    (tmp_path / "output" / "precious").mkdir(parents=True)
    (tmp_path / "output" / "precious" / "file").write_text("kept")
    output.night("one")
    place = runs.place(output.root, "score-1")
    for name in ("generation", "results"):
        forged = json.loads(place.read(runs.BEGUN)) | {name: "../precious"}
        runs.place(output.root, f"forged-{name}").write(runs.BEGUN, json.dumps(forged).encode())
        runs.place(output.root, f"forged-{name}").write(runs.RECORD, place.read(runs.RECORD))
    output.night("two")
    generations.retire(output.root, KeepConfig(generations=1, runs=1))
    assert (tmp_path / "output" / "precious" / "file").read_text() == "kept"
    assert digest("one") not in output.there("results")


def test_half_a_removal_is_ended_by_the_next_and_misleads_nobody(output):
    uri = output.night("one")
    output.night("two")
    Location.of(uri).delete(snapshot.COUNTS)  # the first thing that goes
    with pytest.raises(ArchiveError, match="must be whole"):
        generations.use(output.root, digest("one"))
    generations.retire(output.root, KeepConfig(generations=1))
    assert [each.name for each in generations.found(output.root)] == [digest("two")]
    assert len(output.there("snapshots")) == 1


def test_what_leads_back_to_paths_goes_with_its_generation(output, tmp_path):
    links = Location.of(str(tmp_path / "linkage"))
    for bundle in ("one", "two"):
        (links / digest(bundle)).write("shard.parquet", b"paths")
        output.night(bundle)
    generations.retire(output.root, KeepConfig(generations=1), links)
    assert links.keys() == [f"{digest('two')}/shard.parquet"]
