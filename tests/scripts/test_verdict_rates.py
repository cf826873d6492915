"""The error rates of the verdicts, by small simulations."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from tmsgd_bench.results.statistics import ALPHA


@pytest.fixture(scope="module")
def simulated(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("verdict_rates")


@pytest.mark.parametrize("noise", ["normal", "heavy tails"])
@pytest.mark.parametrize("pairs", [3, 5, 10, 20])
def test_each_wrong_verdict_is_as_rare_as_its_level(simulated: ModuleType, noise: str, pairs: int) -> None:
    """Between equals each direction has 2.5 %; at the margin equivalence has 5 %. The tolerance is four standard
    errors of the simulation."""
    simulations = 1500
    values = simulated.NOISE[noise](np.random.default_rng(pairs), (simulations, 1, pairs))
    equal, at_margin = simulated.rates(values), simulated.rates(values + simulated.MARGIN)
    for rate, level in (
        (equal["supported"], ALPHA / 2),
        (equal["contradicted"], ALPHA / 2),
        (at_margin["no such difference"], ALPHA),
        (at_margin["contradicted"], ALPHA / 2),
    ):
        assert rate < level + 4 * math.sqrt(level * (1 - level) / simulations)
    assert sum(equal.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("true", "word"), [(2.0, "supported"), (-2.0, "contradicted"), (0.0, "no such difference")])
def test_with_many_seeds_the_right_verdict_falls(simulated: ModuleType, true: float, word: str) -> None:
    values = simulated.NOISE["heavy tails"](np.random.default_rng(0), (300, 1, 60))
    assert simulated.rates(values + true)[word] > 0.9


def test_other_claims_make_a_verdict_rarer(simulated: ModuleType) -> None:
    values = simulated.NOISE["normal"](np.random.default_rng(0), (400, 6, 5)) + 1.0
    alone, in_family = simulated.rates(values[:, :1]), simulated.rates(values)
    assert in_family["supported"] < alone["supported"]


def test_all_rates_are_printed(simulated: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    simulated.main(["--simulations", "20", "--claims", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 + len(simulated.NOISE) * len(simulated.PAIRS)
    assert all(line.count("|") == 6 for line in lines[4:])
