"""One loaded bundle, and how much of a machine it takes."""

import numpy as np
import torch

from mri_ray.endpoint import lane
from mri_ray.predict.predictor import Predictor
from tests.endpoint.small import SIZE, bundle_of


def test_what_one_request_asks_alone_has_more_threads_and_the_same_answer():
    before = torch.get_num_threads()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 1, SIZE, SIZE), np.uint8)
    predictor = Predictor(bundle_of(1))
    try:
        (alone,) = lane.together(predictor, [pictures], threads=1, alone=3)
        assert torch.get_num_threads() == 3
        beside, _ = lane.together(predictor, [pictures, pictures], threads=1, alone=3)
        assert torch.get_num_threads() == 1
        lane.together(predictor, [pictures])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert np.abs(alone.probability - beside.probability).max() <= 1e-6
