"""The command ``numerics``: measure, print compact tables, write numbers and figures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tmsgd_bench import files, outputs
from tmsgd_bench.numerics import NAMES, figures
from tmsgd_bench.numerics.experiments import MEASURE, METHODS, Tables


def run(folder: Path, names: Sequence[str] = NAMES, say: Callable[[str], Any] = print) -> None:
    """Run experiments, and write the CSV tables and figures of each as it finishes.

    Args:
        folder: where to write; made if missing. Files of other experiments stay.
        names: which of :data:`tmsgd_bench.numerics.NAMES`.
        say: receives the text of each experiment.

    Raises:
        StoreError: the folder cannot be written, or holds other files of these names.
    """
    try:
        _check_writable(folder)
        for name in names:
            tables = MEASURE[name]()
            outputs.renew(folder, partial(_write, name, tables))
            say(DESCRIBE[name](tables) + "\n")
    except OSError as error:
        raise files.unwritable(folder, error, "--out FOLDER") from error


def _check_writable(folder: Path) -> None:
    """Fail before the measurements, not after them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _write(name: str, tables: Tables, folder: Path) -> None:
    for table, frame in tables.items():
        text = frame.to_csv(index=False, float_format="%.7g")
        files.write_text(folder / f"{table}.csv", text)
    figures.save(name, tables, folder)


# ---------------------------------------------------------------- texts


def describe_order(tables: Tables) -> str:
    """Fitted orders, and the errors behind them."""
    errors = tables["order"].pivot_table(index=["problem", "steps"], columns="rule", values="error", sort=False)
    fitted = tables["order_fitted"].pivot_table(index="problem", columns="rule", values="fitted", sort=False)
    expected = pd.DataFrame({name: [scheme.order] for name, scheme in METHODS.items()}, index=["(theory)"])
    return "\n".join(
        [
            "ORDER. Error at the end time of gradient flows, after equal steps:",
            _text(errors, "{:.1e}"),
            "Order: slope of log error over the four smallest steps:",
            _text(pd.concat([fitted, expected]), "{:.2f}"),
        ]
    )


def describe_regions(tables: Tables) -> str:
    """Extent of the stability regions."""
    points = tables["regions"]
    rows = []
    for (momentum, name), group in points[points["boundary"]].groupby(["momentum", "rule"], sort=False):
        rows.append((momentum, name, METHODS[str(name)].stability_limit(float(str(momentum))), group["im"].abs().max()))
    frame = pd.DataFrame(rows, columns=["mu", "rule", "real up to", "|Im| up to"]).set_index(["mu", "rule"])
    return "REGIONS. Extent of the stability region in the plane of lr * curvature:\n" + _text(frame, "{:.3f}")


def describe_early(tables: Tables) -> str:
    """How much the loss fluctuates with each start, and with each switch step."""
    summary = tables["early"].set_index(["problem", "start"]).drop(columns=["lr", "first_loss"])
    switches = tables["early_switch"]
    rises = switches.pivot_table(index="problem", columns="switch_step", values="total_rise", sort=False)
    steps = switches.pivot_table(index="problem", columns="switch_step", values="h", sort=False)
    return "\n".join(
        [
            "EARLY. Curvature large at first: h = lr * largest curvature at the first point, largest from the third",
            "point on, and at the last; steps that raise the loss, sum of these rises over the first loss; last loss:",
            _text(summary, "{:.3g}"),
            "Sum of rises over the first loss, if eq. (8) begins after so many steps of SGD:",
            _text(rises, "{:.2g}"),
            "h at that step:",
            _text(steps, "{:.2f}"),
        ]
    )


def describe_frequency(tables: Tables) -> str:
    """Gains at rest, at their largest, and for a gradient that alternates."""
    rows = []
    for (momentum, name), group in tables["frequency"].groupby(["momentum", "rule"], sort=False):
        gain, omega = group["gain"].to_numpy(), group["omega"].to_numpy()
        noise = METHODS[str(name)].noise_gain if momentum == 0.0 else np.nan
        deviation = group["deviation"].max()
        rows.append((momentum, name, gain[0], gain.max(), omega[gain.argmax()] / np.pi, gain[-1], noise, deviation))
    columns = ["mu", "rule", "gain at 0", "largest", "at omega/pi", "gain at pi", "noise", "deviation"]
    frame = pd.DataFrame(rows, columns=columns).set_index(["mu", "rule"])
    return (
        "FREQUENCY. Gain from -lr * gradient to displacement; variance gain of white noise relative to Euler;\n"
        "largest deviation of the optimizer's impulse response from the formula:\n" + _text(frame, "{:.3g}")
    )


def describe_limits(tables: Tables) -> str:
    """Predicted and observed divergence limits."""
    frame = tables["limits"].assign(off=lambda t: (t["observed"] - t["predicted"]) / t["tolerance"])
    wide = frame.pivot_table(index="rule", columns="momentum", values=["predicted", "observed"], sort=False)
    inside, bracket = int((frame["off"].abs() <= 1.0).sum()), frame["tolerance"].max()
    return (
        "LIMITS. lr * curvature at which the optimizer begins to diverge on a quadratic, for each momentum:\n"
        + _text(wide, "{:.3f}")
        + f"\n{inside} of {len(frame)} predictions lie in the bracket of +-{bracket:g} that bisection left."
    )


def describe_noise(tables: Tables) -> str:
    """Stationary variances in theory and measured, and their distance in standard errors."""
    frame = tables["noise"].assign(z=lambda t: (t["measured"] - t["predicted"]) / t["standard_error"])
    worst = frame["z"].abs().max()
    shown = frame.rename(columns={"momentum": "mu"}).set_index(["mu", "h", "rule"])
    return (
        "NOISE. Stationary variance on a quadratic at h = lr * curvature, gradient noise of variance 1:\n"
        + _text(shown, "{:.4g}")
        + f"\nLargest distance from theory: {worst:.1f} standard errors in {len(frame)} measurements on the same noise."
    )


DESCRIBE: dict[str, Callable[[Tables], str]] = {
    "order": describe_order,
    "regions": describe_regions,
    "early": describe_early,
    "frequency": describe_frequency,
    "limits": describe_limits,
    "noise": describe_noise,
}


def _text(frame: pd.DataFrame, number: str) -> str:
    return frame.to_string(float_format=number.format, na_rep="")
