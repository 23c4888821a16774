import numpy as np
import pytest
import torch

from mri_ray.errors import ConfigError, RunError
from mri_ray.learn.bundle import Bundle, module
from mri_ray.learn.model import NAMES, ModelConfig, build
from mri_ray.predict.predictor import Predictor, decide
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.records import Decision

SIZE = 64


def a_bundle(name: str = "cnn", **changes) -> Bundle:
    model = ModelConfig(name=name, input_size=SIZE)
    net = build(model, seed=5).train()
    torch.manual_seed(5)
    with torch.no_grad():
        net(torch.rand(32, 1, SIZE, SIZE))  # moves batch norm's averages from their start
    return Bundle(**{"model": model, "prepare": PrepareConfig(size=SIZE), "weights": net.state_dict(), **changes})


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(11).integers(0, 256, (n, 1, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return a_bundle()


@pytest.mark.parametrize("name", NAMES)
def test_fp32_is_the_softmax_of_a_plain_forward_pass(name):
    bundle, images = a_bundle(name, temperature=1.7), pictures(7)
    with torch.inference_mode():
        z = module(bundle)(torch.from_numpy(images).float() / 255)
    expected = torch.softmax(z.double() / bundle.temperature, dim=1)[:, 1].numpy()
    answers = Predictor(bundle, precision="fp32", micro_batch=3).predict(images)
    np.testing.assert_allclose(answers.logit, (z[:, 1] - z[:, 0]).numpy(), atol=2e-6)
    np.testing.assert_allclose(answers.probability, expected, atol=1e-6)
    assert answers.logit.dtype == answers.probability.dtype == np.float32
    assert expected.std() > 1e-4  # else any answer would pass


@pytest.mark.parametrize("name", NAMES)
def test_a_probability_does_not_depend_on_its_batch(name):
    bundle, images = a_bundle(name), pictures(50)
    whole = Predictor(bundle, precision="fp32", micro_batch=50).predict(images).probability
    for micro_batch in (1, 3, 16):
        again = Predictor(bundle, precision="fp32", micro_batch=micro_batch).predict(images).probability
        assert np.abs(again - whole).max() <= 1e-6, micro_batch
    predictor = Predictor(bundle, precision="fp32")
    for size in (1, 3, 16, 50):
        parts = [predictor.predict(images[i : i + size]).probability for i in range(0, 50, size)]
        assert np.abs(np.concatenate(parts) - whole).max() <= 1e-6, size


def test_order_is_kept(bundle):
    images, predictor = pictures(20), Predictor(bundle)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(
        predictor.predict(images[order]).probability, predictor.predict(images).probability[order], atol=1e-6
    )


def test_no_pictures_give_no_answers(bundle):
    answers = Predictor(bundle).predict(pictures(0))
    assert answers.logit.shape == answers.probability.shape == (0,)
    assert answers.logit.dtype == answers.probability.dtype == np.float32
    assert answers.decision == []


def test_the_input_may_be_read_only_and_is_left_alone(bundle):
    images = pictures(5)
    before = images.copy()
    images.flags.writeable = False
    answers = Predictor(bundle).predict(images)
    np.testing.assert_array_equal(images, before)
    answers.probability[0] = 0  # what comes back is the caller's own
    strided = Predictor(bundle).predict(images[::-1])
    np.testing.assert_allclose(strided.logit[::-1], answers.logit, atol=2e-6)


@pytest.mark.parametrize(
    "images",
    [
        pictures(2).astype(np.float32),
        pictures(2)[:, 0],
        pictures(2)[:, :, :32],
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((0, 1, 32, 32), np.uint8),
    ],
    ids=["float", "no channel", "other size", "colour", "other size, empty"],
)
def test_other_arrays_are_refused(bundle, images):
    with pytest.raises(ValueError, match=r"images: must be uint8 \(N, 1, 64, 64\), got"):
        Predictor(bundle).predict(images)


def test_decisions_follow_threshold_and_band():
    p = np.array([0.0, 0.29, 0.3, 0.5, 0.69, 0.7, 1.0])
    n, r, y = Decision.NEGATIVE, Decision.REFER, Decision.POSITIVE
    assert decide(p, threshold=0.5, refer=(0.3, 0.7)) == [n, n, r, r, r, y, y]
    assert decide(p, threshold=0.5, refer=None) == [n, n, n, y, y, y, y]
    assert decide(p, threshold=0.0, refer=None) == [y] * 7
    assert decide(p, threshold=1.0, refer=None) == [n] * 6 + [y]
    assert all(type(d) is Decision for d in decide(p, threshold=0.5, refer=None))


def test_the_stored_probability_leads_to_the_decision(bundle):
    images = pictures(30)
    p = np.sort(Predictor(bundle).predict(images).probability)
    changed = a_bundle(threshold=float(p[15]), refer=(float(p[10]), float(p[20])))
    answers = Predictor(changed).predict(images)
    assert answers.decision == decide(answers.probability.tolist(), threshold=changed.threshold, refer=changed.refer)
    assert len(set(answers.decision)) == 3


@pytest.mark.parametrize("setting", ["micro_batch", "threads"])
def test_settings_are_checked(bundle, setting):
    with pytest.raises(ConfigError, match=f"{setting}: must be at least 1, got 0"):
        Predictor(bundle, **{setting: 0})


def test_an_unknown_precision_is_refused(bundle):
    with pytest.raises(ConfigError, match="precision"):
        Predictor(bundle, precision="fp64")


def test_threads_are_set_for_the_process(bundle):
    before = torch.get_num_threads()
    try:
        Predictor(bundle, threads=before + 1)
        assert torch.get_num_threads() == before + 1
        Predictor(bundle)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_logit_that_is_not_finite_stops_the_run():
    bundle = a_bundle()
    weights = {
        name: torch.full_like(w, 3e38) if name.endswith("output.weight") else w for name, w in bundle.weights.items()
    }
    weights["head.output.weight"][0] *= -1
    overflowing = Bundle(model=bundle.model, prepare=bundle.prepare, weights=weights)
    with pytest.raises(RunError, match=r"logit: must be finite, got .* fp32 for picture"):
        Predictor(overflowing, precision="fp32").predict(pictures(3))
