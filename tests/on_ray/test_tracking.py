"""What MLflow is told of a training: the real one, where it is installed."""

import pytest

from mri_ray.on_ray.tracking import tracked

SETTINGS = {"seed": 3, "model": {"name": "cnn", "width": 8}}


def line(epoch: int, **more) -> dict:
    return {"epoch": epoch, "train_loss": 1 / epoch, "validation_auroc": None, "images_per_s": 90.0} | more


@pytest.mark.slow  # MLflow sets up its database
@pytest.mark.filterwarnings("ignore")  # of MLflow's own making
def test_a_training_that_goes_on_is_one_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")

    def killed() -> None:
        with tracked("a fit", SETTINGS) as tell:
            tell(line(1))
            tell(line(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with tracked("another fit", SETTINGS) as tell:
        tell(line(1))
    with tracked("a fit", SETTINGS) as tell:
        tell(line(2))
        tell(line(3, validation_auroc=0.75))
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("mri_ray").experiment_id])
    assert len(runs) == 2
    run = next(one for one in runs if one.data.tags["mri_ray.fit"] == "a fit")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "model.name": "cnn", "model.width": "8"}
    assert run.data.metrics["validation_auroc"] == 0.75
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


@pytest.mark.filterwarnings("ignore")
def test_a_training_does_not_end_because_mlflow_does_not_answer(tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with tracked("a fit", SETTINGS) as tell:
        tell(line(1))
    assert caplog.text.count("MLflow is told no more") == 1
    assert "secret" not in caplog.text


def test_nothing_is_told_where_no_place_is_given(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with tracked("a fit", SETTINGS) as tell:
        tell(line(1))
    assert not list(tmp_path.iterdir())
