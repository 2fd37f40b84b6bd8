"""compare and reproduce: the paper's run beside its rivals; the paper's figures beside ours."""

from dataclasses import replace

import pytest

import mmaccount as mm
from mmaccount.analysis import paper

DELTA = 1e-5


def test_the_papers_run(resnet):
    made = mm.compare(resnet, delta=DELTA)
    assert made.as_given == mm.epsilon(resnet, delta=DELTA)
    assert made.without_mixing.upper == pytest.approx(277.2844, abs=1e-3)
    assert made.equal_noise_multiplier == pytest.approx(3.2648, abs=1e-4)
    assert made.equal_noise.upper == pytest.approx(2.2324, abs=1e-4)
    assert made.as_given.lower == pytest.approx(6.6834, abs=1e-3)
    assert made.as_given.upper == pytest.approx(6.7689, abs=1e-3)
    assert made.effective_noise_multiplier == pytest.approx(1.4444, abs=1e-4)


@pytest.mark.parametrize("z", [1e-200, 1e200])
def test_noise_whose_square_is_no_number(z):
    made = mm.compare(mm.Settings(sample_rate=0.5, steps=10, noise_multiplier=z), delta=DELTA)
    assert made.equal_noise_multiplier == z
    assert made.equal_noise == made.as_given
    assert (made.as_given.upper > 1e300) == (z < 1)


DENSE = [
    (0.366945, 3.75, 12.4967),
    (0.366945, 7.5, 6.4462),
    (0.366945, 15, 3.8466),
    (1.0, 3.75, 5.0188),
    (1.0, 15, 2.0383),
]


@pytest.mark.parametrize(("z", "rho", "epsilon"), DENSE)
def test_fast_lower_bound_of_mixing_is_the_spread_out_gradient(z, rho, epsilon):
    """Computed independently from the Fisher information with dp_accounting's PLD (pessimistic at a
    grid of 1e-4)."""
    run = mm.Settings(sample_rate=0.02, steps=5000, noise_multiplier=z, mixing=rho, truncation=25)
    assert mm.epsilon(run, delta=DELTA, tight=False).lower == pytest.approx(epsilon, rel=3e-5)


@pytest.mark.parametrize("z", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("rho", [0.5, 3.75, 15.0, 100.0])
def test_effective_lies_between_the_noise_and_the_equal_energy_noise(resnet, z, rho):
    """Cramer-Rao: 1/I <= 1 + L^2/12, so z <= z_eff <= z_eq."""
    made = mm.compare(replace(resnet, noise_multiplier=z, mixing=rho), delta=DELTA)
    assert z <= made.effective_noise_multiplier <= made.equal_noise_multiplier * (1 + 1e-6)
    assert (
        made.equal_noise.upper
        <= made.as_given.upper * (1 + 1e-6)
        <= made.without_mixing.upper * (1 + 2e-6)
    )


def test_without_mixing_all_three_agree(plain):
    made = mm.compare(plain, delta=DELTA)
    assert made.as_given == made.without_mixing == made.equal_noise
    assert (
        made.noise_multiplier
        == made.effective_noise_multiplier
        == made.equal_noise_multiplier
        == 1.0
    )


def test_laplace(resnet):
    made = mm.compare(replace(resnet, noise="laplace", noise_multiplier=1.0), delta=DELTA)
    assert made.effective_noise_multiplier is None
    assert made.equal_noise_multiplier == pytest.approx((1 + 11.25**2 / 24) ** 0.5)


@pytest.mark.parametrize("row", paper.rows(), ids=lambda row: row.name)
def test_published_figures_within_two_percent(row):
    assert row.paper_way == pytest.approx(row.paper, rel=0.02)


def test_figures_ours_of_the_specification():
    ours = [200.0, 58.09, 40.57, 31.80, 17.88, 9.01, 5.45, 15.35, 7.93, 4.83, 8.000]
    assert [row.paper_way for row in paper.rows()] == pytest.approx(ours, abs=6e-3)
    assert paper.rows()[-1].paper_way == pytest.approx(8.0, abs=1e-3)


def test_the_scripts_integration_range_under_reports():
    row = paper.integration_range()
    assert row.script_range < 0.75 * row.full_range
    assert (
        row.full_range
        == mm.epsilon(row.settings, delta=DELTA, conversion="mironov", orders=range(2, 20)).upper
    )


def test_a_range_cut_short_explains_the_one_hot_figures():
    made = list(paper.one_hot_cut().values())
    assert made == pytest.approx([57.67, 40.36, 31.70], abs=0.01)
    published = [57.2, 40.4, 31.7]
    full = [row.paper_way for row in paper.rows()[1:4]]
    assert all(
        abs(cut - there) < abs(whole - there)
        for cut, there, whole in zip(made, published, full, strict=True)
    )
