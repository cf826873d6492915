"""The question of the paper: is TM-SGD better than SGD, on each task and on all of them?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from tmsgd_bench.results import claim_forms
from tmsgd_bench.results.cells import signed
from tmsgd_bench.results.claims import Claim, Verdicts
from tmsgd_bench.results.paper import Experiment, layout
from tmsgd_bench.results.verdicts import Verdict
from tmsgd_bench.version import LEVELS

PAIR = "tmsgd/sgd"
"""The end of the names of the claims that it is about."""
MEANINGS: Mapping[Verdict, str] = {
    "supported": "TM-SGD is better",
    "contradicted": "SGD is better",
    "no such difference": "any difference is too small to matter",
    "undecided": "too few runs to tell",
    "not yet tested": "no runs",
}
"""What each verdict on "TM-SGD is better than SGD" means."""


@dataclass(frozen=True)
class Gain:
    """What TM-SGD gains over SGD in one experiment, in percent of SGD's metric; positive is better.

    Args:
        label: of the experiment and the level.
        mean, low, high: of the paired differences; NaN ends if there is no interval.
        n: pairs.
        printed: the same of the paper's two numbers, if it prints both.
    """

    label: str
    mean: float
    low: float
    high: float
    n: int
    printed: float | None


@dataclass(frozen=True)
class Finding:
    """TM-SGD against SGD in one experiment at one level: a claim about this pair, as a sentence and as a row."""

    claim: Claim

    @cached_property
    def experiment(self) -> Experiment:
        """What they were trained on.

        Raises:
            ValueError: the claim is about several experiments or about none.
        """
        if self.claim.experiment is None:
            raise ValueError(f"the claim {self.claim.id} is about no single experiment")
        return self.claim.experiment

    @property
    def subject(self) -> str:
        """Task, data set and model, in words."""
        return f"{layout(self.experiment.table)['title']}, {self.experiment.label}"

    @property
    def meaning(self) -> str:
        """Of the verdict."""
        return MEANINGS[self.claim.verdict]

    @property
    def words(self) -> str:
        """The difference that was measured, at which level, and what the paper prints."""
        if self.claim.comparison is None:
            return ""
        unit = " points" if self.experiment.unit == "%" else ""
        ours = f"TM-SGD − SGD is {claim_forms.ours(self.claim)} in {self.experiment.metric_label}{unit}"
        seen = self.claim.printed
        paper = "" if seen is None else f"; the paper prints {signed(seen.value, self.experiment.digits)}"
        return f"{ours}, level {self.claim.level}{paper}"

    @property
    def gain(self) -> Gain | None:
        """As a row of the picture; None if there is nothing to draw."""
        comparison, seen = self.claim.comparison, self.claim.printed
        if comparison is None or not comparison.difference.n or not comparison.base:
            return None
        sign = 1.0 if self.experiment.direction == "max" else -1.0
        value, unit = comparison.difference, 100.0 * sign / abs(comparison.base)
        ends = sorted((value.low * unit, value.high * unit))
        sgd = self.experiment.printed.get("sgd")
        printed = 100.0 * sign * seen.value / abs(sgd.value) if seen and sgd else None
        task = str(layout(self.experiment.table)["title"]).partition(",")[0]
        label = f"{task}: {self.experiment.label}, {self.claim.level}"
        return Gain(label, value.mean * unit, ends[0], ends[1], value.n, printed)


def findings(verdicts: Verdicts) -> list[Finding]:
    """TM-SGD against SGD in every experiment and at every level with runs, in the order of the paper."""
    return [
        Finding(claim)
        for claim in verdicts.claims
        if claim.experiment and claim.id.endswith(PAIR) and claim.verdict != "not yet tested"
    ]


def sentence(verdicts: Verdicts) -> str:
    """The answer for the whole paper: how many experiments have which verdict, each at its highest level."""
    every = {claim.experiment.key for claim in verdicts.claims if claim.experiment and claim.id.endswith(PAIR)}
    highest: dict[str, Finding] = {}
    for finding in sorted(findings(verdicts), key=lambda finding: list(LEVELS.values()).index(finding.claim.level)):
        highest.setdefault(finding.experiment.key, finding)
    counts = Counter(finding.claim.verdict for finding in highest.values())
    counts["not yet tested"] = len(every) - len(highest)
    words = [f"{counts[word]} {word}" for word in get_args(Verdict) if counts[word]]
    return f"In {len(every)} experiments, each at its highest level: {', '.join(words)}."


def measured_gains(findings: Iterable[Finding]) -> list[Gain]:
    """The rows of a picture of findings; those with nothing to draw are left out."""
    return [row for row in (finding.gain for finding in findings) if row is not None and math.isfinite(row.mean)]
