import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.splits import stratified_split
from triptych.errors import UserError


@st.composite
def labels_and_n(draw):
    labels = draw(st.lists(st.integers(0, 9), min_size=1, max_size=80))
    return torch.tensor(labels), draw(st.integers(0, len(labels)))


@settings(max_examples=200, deadline=None)
@given(labels_and_n(), st.integers(0, 2**32 - 1))
def test_a_split_is_complete_disjoint_ascending_and_proportional(case, seed):
    labels, n = case
    rest, held_out = stratified_split(labels, n, seed)
    assert len(held_out) == n
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(len(labels)))
    assert (rest.diff() > 0).all()
    assert (held_out.diff() > 0).all()
    for name in labels.unique():
        ideal = n * int((labels == name).sum()) / len(labels)
        assert abs(int((labels[held_out] == name).sum()) - ideal) < 1


def test_the_seed_decides_and_global_state_does_not():
    labels = torch.arange(200) % 10
    np.random.seed(0)
    first = stratified_split(labels, 50, seed=3)[1]
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(first, stratified_split(labels, 50, seed=3)[1])
    assert not torch.equal(first, stratified_split(labels, 50, seed=4)[1])


def test_every_image_of_a_class_can_be_held_out():
    labels = torch.zeros(50, dtype=torch.int64)
    seen = torch.cat([stratified_split(labels, 10, seed)[1] for seed in range(60)])
    assert len(seen.unique()) == 50


def test_a_split_is_the_same_in_every_version():
    held_out = stratified_split(torch.arange(1000) % 7, 100, seed=5)[1]
    digest = hashlib.sha256(held_out.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("84cfab60cfc2917f")


@pytest.mark.parametrize("n", [-1, 11])
def test_more_than_there_is_cannot_be_held_out(n):
    with pytest.raises(UserError, match=f"hold out {n} of 10 .* 0 to 10"):
        stratified_split(torch.zeros(10, dtype=torch.int64), n, seed=0)
