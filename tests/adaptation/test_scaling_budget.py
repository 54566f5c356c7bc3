from dataclasses import dataclass, replace

import pytest

from effdet import Architecture, load_config
from effdet.adaptation.measurement import Stopwatch
from effdet.adaptation.scaling_budget import Budget, config_of_fit, describe, fit_free, fit_phi
from effdet.deployment.speed import Timing
from effdet.models.cost import network_cost
from effdet.models.scaling import scale
from effdet.runs.architecture import architecture_of

BASE = replace(Architecture.named("lite0"), image_size=(96, 128), channels=32, neck_repeats=1, head_repeats=1)


@dataclass(frozen=True, kw_only=True)
class SteadyClock(Stopwatch):
    """Milliseconds that are 100 for each GMAC, so that the search can be checked."""

    def measure(self, architecture, num_classes):
        milliseconds = network_cost(architecture, num_classes=num_classes).macs / 1e7
        return Timing(median=milliseconds, first_quartile=milliseconds, third_quartile=milliseconds)


def macs(architecture):
    return network_cost(architecture, num_classes=3).macs


def test_the_phi_that_is_found_fits_and_the_next_does_not():
    fit = fit_phi(Budget(macs=1e8), base=BASE, num_classes=3)
    assert fit.cost == network_cost(fit.architecture, num_classes=3)
    assert fit.milliseconds is None
    phi = fit.phi
    assert fit.architecture == scale(BASE, depth=phi, width=phi, resolution=phi)
    larger = scale(BASE, depth=phi + 0.05, width=phi + 0.05, resolution=phi + 0.05)
    assert macs(fit.architecture) <= 1e8 < macs(larger)


def test_a_budget_below_the_base_makes_it_smaller():
    fit = fit_phi(Budget(macs=0.8 * macs(BASE)), base=BASE, num_classes=3)
    assert fit.phi < 0
    assert macs(fit.architecture) <= 0.8 * macs(BASE)


@pytest.mark.parametrize(("budget", "low", "high"), [(2.6e9, 0, 0.3), (6.1e9, 1, 1.4)])
def test_the_published_multiply_adds_lead_to_about_the_published_models(budget, low, high):
    fit = fit_phi(Budget(macs=budget))  # D0 has 2.54e9, D1 6.10e9
    assert low <= fit.phi <= high
    assert fit.architecture == Architecture.from_phi(fit.phi)
    assert fit.cost.macs <= budget


def test_milliseconds_are_those_of_the_stopwatch():
    fit = fit_phi(Budget(milliseconds=10, stopwatch=SteadyClock()), base=BASE, num_classes=3)
    assert fit == replace(fit_phi(Budget(macs=1e8), base=BASE, num_classes=3), milliseconds=fit.milliseconds)
    assert fit.milliseconds == pytest.approx(macs(fit.architecture) / 1e7)


def test_a_free_triple_uses_more_of_the_budget():
    tied = fit_phi(Budget(macs=1e8), base=BASE, num_classes=3)
    free = fit_free(Budget(macs=1e8), base=BASE, num_classes=3)
    assert free.phi is None
    depth, width, resolution = free.coefficients
    assert free.architecture == scale(BASE, depth=depth, width=width, resolution=resolution)
    assert tied.cost.macs <= free.cost.macs <= 1e8
    for name in ("depth", "width", "resolution"):
        step = {"depth": depth, "width": width, "resolution": resolution}
        step[name] += 0.25
        assert macs(scale(BASE, **step)) > 1e8 or step[name] > 12


def test_a_coefficient_that_is_given_stays():
    fit = fit_free(Budget(macs=1e8), base=BASE, num_classes=3, resolution=0)
    assert fit.coefficients[2] == 0
    assert fit.architecture.image_size == BASE.image_size
    assert fit.cost.macs <= 1e8


@pytest.mark.parametrize("find", [fit_phi, fit_free])
def test_a_budget_that_no_network_meets_is_refused(find):
    with pytest.raises(ValueError, match=r"must allow the smallest network, .* GMACs, got 0\.001 GMACs; give"):
        find(Budget(macs=1e6), base=BASE, num_classes=3)


def test_d0_is_the_smallest_without_a_base():
    with pytest.raises(ValueError, match=r"smallest network, 2\.49 GMACs, got 1 GMACs"):
        fit_phi(Budget(macs=1e9))


def test_one_coefficient_must_be_free():
    with pytest.raises(ValueError, match="one of depth, width and resolution must be free"):
        fit_free(Budget(macs=1e8), base=BASE, depth=0, width=0, resolution=0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "a budget must be macs or milliseconds, got macs=None and milliseconds=None"),
        ({"macs": 1.0, "milliseconds": 1.0}, "a budget must be macs or milliseconds"),
        ({"macs": -1.0}, r"a budget must be a positive number, got -1\.0"),
        ({"milliseconds": float("nan")}, "a budget must be a positive number, got nan"),
    ],
)
def test_a_budget_is_one_positive_number(limits, message):
    with pytest.raises(ValueError, match=message):
        Budget(**limits)


# -- the config ------------------------------------------------------------------------------------------------------


def read_back(fit, tmp_path, *overrides):
    (tmp_path / "fit.yaml").write_text(config_of_fit(fit, load_config("custom", overrides)), encoding="utf-8")
    return load_config(tmp_path / "fit.yaml")


def test_the_config_of_a_phi_says_the_phi(tmp_path):
    config = read_back(fit_phi(Budget(macs=4e9)), tmp_path, "data.root=photos")
    assert (config.model.name, config.model.phi) == (None, 0.45)  # 0.5 has 640 pixels and 5.6e9
    assert (config.data.root, config.data.long_side, config.data.image_size) == ("photos", None, None)
    assert config.train == replace(load_config("custom").train, freeze=config.train.freeze, freeze_bn=False)
    assert (config.model.backbone_weights, config.train.freeze.value) == (None, "none")  # timm has no such backbone


def test_the_config_of_a_published_model_keeps_its_first_weights(tmp_path):
    fit = replace(fit_phi(Budget(macs=2.6e9)), phi=0.0, architecture=Architecture.named("d0"))
    config = read_back(fit, tmp_path)
    assert (config.model.phi, config.model.backbone_weights, config.train.freeze.value) == (0.0, "imagenet", "stem")


@pytest.mark.parametrize("find", [fit_phi, fit_free])
def test_the_config_of_a_scaled_base_says_the_whole_architecture(tmp_path, find):
    fit = find(Budget(macs=1e8), base=BASE, num_classes=3)
    assert architecture_of(read_back(fit, tmp_path).model) == fit.architecture


def test_a_fit_in_words():
    fit = fit_phi(Budget(milliseconds=10, stopwatch=SteadyClock()), base=BASE, num_classes=3)
    first, second, third = describe(fit)
    assert first == f"phi {fit.phi:g}"
    assert second.startswith(f"input {fit.architecture.image_size[0]}×{fit.architecture.image_size[1]}, neck")
    assert third.endswith(" ms")
    assert describe(fit_free(Budget(macs=1e8), base=BASE, width=0))[0].startswith("coefficients: depth ")
