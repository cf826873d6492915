"""Wrong values of settings, from scripts/wrong_values.py: each is refused in one sentence."""

from __future__ import annotations

import warnings

import wrong_values

from faults.trial import BELIEVED, LOST, TRACEBACK, Attempt, Fault, Kind, short
from tmsgd_bench.engine import compose

VALUES = 40
"""Of one trial; each takes some hundredths of a second."""


def attempt(trial: Attempt) -> None:
    """Judge a random sample of cases."""
    with warnings.catch_warnings():
        compose.ignore_version_warning()
        cases = trial.place.once("cases", lambda: list(wrong_values.cases()))
        judge = trial.place.once("judge", wrong_values.Judge)
        for case in trial.random.sample(cases, VALUES):
            trial.fault = f"{' '.join(case.base)} {case.override[:80]!r}"
            _expect_fitting(case, judge(case))
    trial.fault = f"{VALUES} values"


def _expect_fitting(case: wrong_values.Case, verdict: wrong_values.Verdict) -> None:
    if verdict.fits(case):
        return
    if verdict.outcome == "accepted":
        raise Fault(BELIEVED, "it is accepted")
    raise Fault(LOST if case.accepted else TRACEBACK, f"{verdict.outcome}: {short(verdict.message)}")


KIND = Kind("wrong-values", attempt, share=0.3)
