"""Trees and networks that are stored as arrays predict what scikit-learn and torch predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from torch import nn

from tidegate.diagnosis.forest import Blend, BlendConfig, fit_blend
from tidegate.diagnosis.networks import NetworkConfig, Networks, fit_networks
from tidegate.errors import UsageError

QUICK = NetworkConfig(epochs=30, seeds=2, batch_size=32)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data[:600], data.target[:600]


def test_networks_predict_what_torch_predicts(digits):
    rows, truth = digits
    fitted = fit_networks(rows, truth, 10, QUICK)
    inside = torch.from_numpy((rows - fitted.mean_F) / fitted.scale_F).clamp(-6, 6)
    logs = []
    for s in range(2):
        first, last = nn.Linear(64, QUICK.units).double(), nn.Linear(QUICK.units, 10).double()
        first.load_state_dict({"weight": torch.from_numpy(fitted.weight_SFU[s].T.copy()),
                               "bias": torch.from_numpy(fitted.bias_SU[s])})
        last.load_state_dict({"weight": torch.from_numpy(fitted.weight_SUK[s].T.copy()),
                              "bias": torch.from_numpy(fitted.bias_SK[s])})
        logs.append(last(torch.relu(first(inside))).log_softmax(1))
    expected = torch.stack(logs).mean(0).softmax(1).detach().numpy()
    np.testing.assert_allclose(fitted.probabilities(rows), expected, atol=1e-9)
    assert (fitted.probabilities(rows).argmax(1) == truth).mean() > 0.93


def test_the_same_seed_gives_the_same_networks_and_torchs_own_seed_is_left_alone(digits):
    rows, truth = digits
    torch.manual_seed(5)
    one = fit_networks(rows, truth, 10, QUICK, seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    again = fit_networks(rows, truth, 10, QUICK, seed=1)
    np.testing.assert_array_equal(one.weight_SFU, again.weight_SFU)
    assert not np.array_equal(one.weight_SFU, fit_networks(rows, truth, 10, QUICK, seed=2).weight_SFU)


def test_trees_alone_predict_what_scikit_learn_predicts(digits):
    rows, truth = digits
    config = BlendConfig(num_trees=20, tree_share=1.0, networks=NetworkConfig(epochs=1, seeds=1), folds=3)
    blend, _ = fit_blend(rows, truth.astype(str), np.arange(len(rows)), config, seed=4)
    trees = ExtraTreesClassifier(20, min_samples_leaf=6, max_depth=16, max_features=0.3, class_weight="balanced",
                                 random_state=4).fit(rows, truth)
    logs = np.log(trees.predict_proba(rows) + 1e-3) / blend.temperature
    expected = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    np.testing.assert_allclose(blend.probabilities(rows), expected, atol=1e-6)


def test_a_blend_survives_its_arrays_and_held_out_probabilities_are_of_other_rows(digits):
    rows, truth = digits
    groups = np.arange(len(rows)) // 3
    blend, held_out = fit_blend(rows, truth.astype(str), groups, BlendConfig(num_trees=20, networks=QUICK))
    again = Blend.from_arrays(blend.arrays("x"), "x", blend.classes)
    np.testing.assert_allclose(again.probabilities(rows), blend.probabilities(rows), atol=2e-3)
    assert (held_out.argmax(1) == truth).mean() > 0.9
    wrong = np.random.default_rng(0).permutation(truth).astype(str)
    _, of_noise = fit_blend(rows, wrong, groups, BlendConfig(num_trees=20, networks=QUICK))
    assert (of_noise.argmax(1).astype(str) == wrong).mean() < 0.2


def test_far_inputs_do_not_run_away(digits):
    rows, truth = digits
    networks = fit_networks(rows, truth, 10, QUICK)
    assert isinstance(networks, Networks)
    np.testing.assert_array_equal(networks.probabilities(np.full((1, 64), 1e6)),
                                  networks.probabilities(np.full((1, 64), 1e9)))


def test_one_class_cannot_be_told_apart(digits):
    rows, _ = digits
    with pytest.raises(UsageError, match="at least two classes"):
        fit_blend(rows, np.full(len(rows), "a"), np.arange(len(rows)))
