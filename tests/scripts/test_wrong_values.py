"""A share of the wrong values: each is refused in one sentence, or rightly accepted; none ends in a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType

COUNT = 90


def test_no_wrong_value_is_accepted_and_none_ends_in_a_traceback(script: Callable[[str], ModuleType]) -> None:
    module = script("wrong_values")
    cases = list(module.cases())
    assert len(cases) > 2000 and sum(case.accepted for case in cases) > 200
    accepted = [case for case in cases if case.accepted]
    chosen = random.Random(7).sample(cases, COUNT) + random.Random(7).sample(accepted, COUNT // 6)
    judge = module.Judge()
    wrong = [f"{case}: {verdict}" for case in chosen if not (verdict := judge(case)).fits(case)]
    assert wrong == []
