import pytest
import torch

from minigrpo.effective import effective_records, proposed_beta, wanted_records, weight_warning
from minigrpo.triples import load_triples, optimum_weights

pytestmark = pytest.mark.quick


def test_equal_weights_all_count_and_a_single_weight_counts_as_one():
    assert effective_records(torch.ones(7)) == pytest.approx(7)
    assert effective_records(torch.tensor([0.0, 3.0, 0.0])) == pytest.approx(1)
    assert effective_records(torch.tensor([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2)


def test_scores_up_to_a_hundred_at_a_small_beta_are_warned_of_with_a_beta_that_helps():
    rewards = torch.linspace(0, 100, 50)
    said = weight_warning(rewards, 0.4)
    assert "Of 50 records only 1.0 count" in said
    better = proposed_beta(rewards, 0.4)
    assert f"with beta {better:g}" in said
    assert effective_records(optimum_weights(rewards, better)) >= wanted_records(50) == 5
    assert weight_warning(rewards, better) is None


def test_the_bundled_records_are_not_warned_of():
    assert weight_warning(torch.tensor(load_triples("bundled")["reward"]), 0.4) is None
