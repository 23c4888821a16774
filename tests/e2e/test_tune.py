"""A search that is killed, and goes on."""

import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow


def ledger(output: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in output.glob("search/*/trials/*.json")}


@pytest.mark.timeout(900)
def test_a_killed_search_goes_on_with_what_has_ended(jobs, phantoms, tmp_path):
    given = [f"archive={phantoms}", f"labels={phantoms.parent}/labels.csv", "prepare.size=64", "model.input_size=64"]
    given += ["model.width=2", "model.blocks=4", "model.dense=8", "train.epochs=2", "train.workers=1"]
    given += ["split.validation=0.25", "split.test=0.25", "train.batch_size=16", f"output={tmp_path}"]
    given += ["search={optimiser.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}, model.width: {choice: [2, 3]}}"]
    given += ["tune.trials=4", "tune.startup=1", "tune.grace=1", "evaluation.rounds=100"]
    process = jobs.start("tune", *given)
    end = time.monotonic() + 400
    while sum(one["state"] != "running" for one in ledger(tmp_path).values()) < 2:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    jobs.kill(process)
    before = ledger(tmp_path)
    ended = {name: one for name, one in before.items() if one["state"] != "running"}
    assert 2 <= len(ended) < 4

    code, printed = jobs.run("tune", *given, "resume=true")
    assert code == 0, printed
    assert f"{len(ended)} trials have ended" in printed
    rows = {row["trial_id"]: row for row in pq.read_table(tmp_path / "trials.parquet").to_pylist()}
    assert list(rows) == ["0000", "0001", "0002", "0003"]
    for name, one in ended.items():  # none of them has run again
        assert rows[name]["seconds"] == one["seconds"]
        assert json.loads(rows[name]["settings"]) == one["settings"]
        assert f"trial {name}: epoch" not in printed
    for name, one in before.items():
        if name not in ended:
            assert json.loads(rows[name]["settings"]) == one["settings"]
            assert rows[name]["resumed"] == 1
    assert (tmp_path / "best.yaml").exists()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["search"]["trials"] == 4
    assert max(row["validation_auroc"] for row in rows.values()) == record["search"]["validation_auroc"]
