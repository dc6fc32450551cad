"""The digits of the example searches, as they are and scattered."""

import pytest
import torch
import torch.nn.functional as F

from image_data import load_digits, load_scattered_digits


def test_digits_are_normalized_and_the_parts_share_nothing():
    data = load_digits(seed=3)
    parts = [data.weights, data.architecture, data.validation]
    assert [len(part) for part in parts] == [719, 719, 359]
    assert len({index for part in parts for index in part.indices}) == 1797
    images = torch.stack([image for part in parts for image, _ in part])
    assert images.shape == (1797, 1, 8, 8)
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std()) - 1) < 1e-5
    assert (data.in_channels, data.num_classes) == (1, 10)
    assert load_digits(seed=3).weights.indices == data.weights.indices != load_digits(seed=4).weights.indices
    assert load_digits(image_size=12).weights[0][0].shape == (1, 12, 12)


def test_scattered_digits_are_digits_at_random_places():
    data, plain = load_scattered_digits(seed=3), load_digits(image_size=16, seed=3)
    assert data.weights.indices == plain.weights.indices
    scattered, digits = (torch.stack([each.weights[i][0] for i in range(50)]) for each in (data, plain))
    assert scattered.shape == (50, 1, 24, 24)
    windows = scattered.unfold(2, 16, 1).unfold(3, 16, 1).flatten(2, 3)  # f32[50,1,81,16,16]
    matches = F.cosine_similarity(windows.flatten(3), digits.flatten(2).unsqueeze(2), dim=-1)  # f32[50,1,81]
    assert matches.max(dim=-1).values.min() > 0.6, "each digit is there"
    assert len(set(matches.argmax(dim=-1).flatten().tolist())) > 20, "at many places"
    with pytest.raises(ValueError, match="a scattered digit has 16 pixels a side, found images of 12"):
        load_scattered_digits(12)
