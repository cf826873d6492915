"""Wrong values of settings, of the generator of scripts/wrong_values.py: each is refused in one sentence."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

from faults.trial import BELIEVED, LOST, TRACEBACK, Attempt, Fault, Kind, short

GENERATOR = "wrong_values"
VALUES = 40
"""Of one trial; each takes some hundredths of a second."""


def attempt(trial: Attempt) -> None:
    """Judge some cases."""
    generator = importlib.import_module(GENERATOR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*The version_base parameter")  # see run.py
        cases = trial.place.once("cases", lambda: list(generator.cases()))
        judge = trial.place.once("judge", generator.Judge)
        for case in trial.random.sample(cases, VALUES):
            trial.fault = f"{' '.join(case.base)} {case.override[:80]!r}"
            _expect_fitting(case, judge(case))
    trial.fault = f"{VALUES} values"


def _expect_fitting(case: Any, verdict: Any) -> None:
    if verdict.fits(case):
        return
    if verdict.outcome == "accepted":
        raise Fault(BELIEVED, "it is accepted")
    raise Fault(LOST if case.accepted else TRACEBACK, f"{verdict.outcome}: {short(verdict.said)}")


def hindrance() -> str:
    """Why there are no wrong values; empty if there are."""
    there = importlib.util.find_spec(GENERATOR) is not None
    return "" if there else f"scripts/{GENERATOR}.py, which makes them, is not there"


KIND = Kind("wrong-values", attempt, hindrance=hindrance, share=0.3)
