"""How often each verdict falls, by simulation: for a true difference, a kind of noise, and a number of seeds.

    python scripts/verdict_rates.py                        # a table in Markdown, in a quarter of a minute
    python scripts/verdict_rates.py --claims 6 --simulations 5000

Paired differences have standard deviation 1 and the margin is 1, so a printed difference is 2. With --claims the claim
is one of a family; the others are between equals.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

from tmsgd_bench import terminal
from tmsgd_bench.results.cells import markdown_row
from tmsgd_bench.results.statistics import holm
from tmsgd_bench.results.verdicts import Verdict, equivalence_p, verdict

PAIRS = (5, 10, 20)
MARGIN = 1.0
TRUTHS = {"none": 0.0, "the margin": MARGIN, "the printed one": 2.0 * MARGIN}
WORDS: tuple[Verdict, ...] = ("supported", "contradicted", "no such difference", "undecided")
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3.0),
    "skewed": lambda rng, shape: rng.standard_exponential(shape) - 1.0,
}
"""Differences with mean 0 and standard deviation 1: normal, Student's t with 3 degrees of freedom, exponential."""


def rates(differences: np.ndarray, margin: float = MARGIN) -> dict[Verdict, float]:
    """Share of each verdict on the first claim of each simulated family; higher is better.

    Args:
        differences: (simulations, claims of a family, pairs), paired differences.
        margin: the largest difference that does not matter.
    """
    first = differences[:, 0]
    mean, spread, pairs = first.mean(axis=1), first.std(axis=1, ddof=1), first.shape[1]
    p_equivalence = equivalence_p(mean, spread, pairs, margin)
    p_adjusted = [holm(list(family))[0] for family in stats.ttest_1samp(differences, 0.0, axis=2).pvalue]
    words = [verdict(*values, "max") for values in zip(mean, p_adjusted, p_equivalence, strict=True)]
    return {word: words.count(word) / len(words) for word in WORDS}


def rows(simulations: int, claims: int) -> Iterator[tuple[str, ...]]:
    """Noise, pairs, and for each true difference the rates of WORDS in percent."""
    for noise, draw in NOISE.items():
        for pairs in PAIRS:
            differences = draw(np.random.default_rng(pairs), (simulations, claims, pairs))
            yield noise, str(pairs), *(_cell(differences, true) for true in TRUTHS.values())


def _cell(differences: np.ndarray, true: float) -> str:
    shift = np.zeros((differences.shape[1], 1))
    shift[0] = true
    shares = rates(differences + shift)
    return " · ".join(f"{100.0 * shares[word]:.1f}" for word in WORDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How often each verdict falls, by simulation.")
    parser.add_argument("--simulations", type=int, default=20_000, metavar="N", help="default: 20000")
    parser.add_argument("--claims", type=int, default=1, metavar="N", help="in the family (default: 1)")
    options = parser.parse_args(arguments)
    print("Percent of: " + " · ".join(WORDS) + "\n")
    print(markdown_row(["noise", "seeds", *(f"true difference: {name}" for name in TRUTHS)]))
    print("|---" * (2 + len(TRUTHS)) + "|")
    for cells in rows(options.simulations, options.claims):
        print(markdown_row(cells))


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
