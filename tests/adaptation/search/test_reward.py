import pytest

from effdet.adaptation.search.reward import Reward, pareto_front


def test_the_soft_reward_is_that_of_mnasnet_by_hand():
    # (LAT/TAR)^-0.07 with a pocket calculator: 2^-0.07 = 0.95264, 0.5^-0.07 = 1.04972.
    reward = Reward(target=80.0)
    assert reward(0.75, 80.0) == 0.75
    assert reward(0.75, 160.0) == pytest.approx(0.75 * 0.95264, abs=1e-5)
    assert reward(0.75, 40.0) == pytest.approx(0.75 * 1.04972, abs=1e-5)


def test_twice_the_latency_is_worth_five_per_cent_of_accuracy():
    # The paper's reason for -0.07: a model of latency 2l and accuracy 1.05·a has the reward of one of l and a.
    reward = Reward(target=75.0)
    assert reward(0.5 * 1.05, 150.0) == pytest.approx(reward(0.5, 75.0), rel=1e-3)


def test_the_hard_target_counts_only_accuracy_below_it_and_divides_above_it():
    reward = Reward(target=80.0, alpha=0.0, beta=-1.0)
    assert reward(0.6, 20.0) == reward(0.6, 80.0) == 0.6
    assert reward(0.6, 160.0) == pytest.approx(0.3)
    assert reward(0.6, 240.0) == pytest.approx(0.2)


def test_the_exponent_of_mobilenet_v3_for_small_models():
    # 2^-0.15 = 0.90125.
    assert Reward(target=10.0, alpha=-0.15, beta=-0.15)(0.6, 20.0) == pytest.approx(0.6 * 0.90125, abs=1e-5)


@pytest.mark.parametrize("target", [0, -3.0, float("inf"), float("nan")])
def test_a_target_must_be_positive(target):
    with pytest.raises(ValueError, match="the target of a search must be a positive number, got"):
        Reward(target=target)


@pytest.mark.parametrize("exponents", [{"alpha": 0.1}, {"beta": float("nan")}, {"beta": -float("inf")}])
def test_exponents_must_not_reward_cost(exponents):
    with pytest.raises(ValueError, match=r"the exponent (alpha|beta) must be 0 or negative, such as -0.07, got"):
        Reward(target=1.0, **exponents)


def beaten(point, points):
    return any(a >= point[0] and c <= point[1] and (a, c) != point for a, c in points)


def test_the_pareto_front_is_what_no_point_beats():
    points = [(0.3, 10.0), (0.2, 5.0), (0.25, 12.0), (0.4, 30.0), (0.4, 25.0), (0.2, 5.0), (0.1, 5.0), (0.3, 9.0)]
    front = pareto_front(points)
    assert [points[index] for index in front] == [(0.2, 5.0), (0.3, 9.0), (0.4, 25.0)]
    assert {points[index] for index in front} == {point for point in points if not beaten(point, points)}
    assert pareto_front([]) == []
