"""A class that the suite does not know is given only options that its constructor declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch

from tmsgd_bench.engine import schema
from tmsgd_bench.engine.signatures import check_signature, fits, resolve, type_name
from tmsgd_bench.errors import ConfigError


class Own:
    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.9), nesterov: bool = False) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1, "nesterow": True}, "unknown setting 'optimizer.nesterow': did you mean 'nesterov'?"),
        ({}, "setting 'optimizer.lr' is missing, which Own needs: add it"),
        ({"lr": "fast"}, "optimizer.lr must be float, as Own declares it, not 'fast'"),
        ({"lr": True}, "optimizer.lr must be float"),
        ({"lr": 0.1, "nesterov": 1}, "optimizer.nesterov must be bool"),
        ({"lr": 0.1, "betas": 0.9}, "optimizer.betas must be tuple[float, float]"),
        ({"lr": 0.1, "params": 1}, "unknown setting 'optimizer.params'"),
    ],
)
def test_what_a_constructor_does_not_take_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_signature("optimizer", Own, options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (torch.nn.Module, "torch.nn.Module"),
        (torch.nn.Module | None, "torch.nn.Module | None"),
        (dict[str, torch.optim.SGD], "dict[str, torch.optim.SGD]"),
        (float, "float"),
    ],
)
def test_a_type_has_the_name_that_programs_use(annotation: Any, name: str) -> None:
    assert type_name(annotation) == name


def test_what_a_constructor_takes_is_accepted() -> None:
    check_signature("optimizer", Own, {"lr": 1, "betas": [0.5, 0.5], "nesterov": True})
    check_signature("optimizer", lambda params, **options: None, {"anything": object()})


def test_a_constructor_that_takes_any_option_is_not_given_a_misspelt_one() -> None:
    """It would keep quiet about it."""

    def own(params: Any, lr: float = 0.1, weight_decay: float = 0.0, **options: Any) -> None:
        """Take any option."""

    check_signature("optimizer", own, {"lr": 0.1, "weight_decay": 0.1, "decoupled": True})
    with pytest.raises(ConfigError, match="did you mean 'weight_decay'"):
        check_signature("optimizer", own, {"weigth_decay": 0.1})


def test_a_class_is_named_as_it_is_imported() -> None:
    def own(network: torch.nn.Module | int) -> None:
        """Take a module, which YAML cannot hold, or a number."""

    with pytest.raises(ConfigError, match=r"must be torch\.nn\.Module \| int,"):
        check_signature("model", own, {"network": "x"}, first=0)


def test_an_optimizer_whose_step_needs_a_closure_is_refused() -> None:
    values = {"_target_": "torch.optim.LBFGS", "name": "lbfgs", "label": "L-BFGS", "lr": 1.0}
    with pytest.raises(ConfigError, match=r"LBFGS"):
        schema.check_optimizer(values)
    schema.check_optimizer({**values, "_target_": "torch.optim.NAdam"})


@pytest.mark.parametrize(
    ("value", "hint", "fine"),
    [
        (1, float | torch.Tensor, True),
        ("a", float | torch.Tensor, False),
        (float("nan"), float, False),
        (None, bool | None, True),
        ("x", Literal["x", "y"], True),
        ("z", Literal["x", "y"], False),
        ([1], Sequence[int], True),
        ("ab", Sequence[int], False),
        ({"a": 1}, dict, True),
        ("anything", torch.Tensor, True),
        ([1], Any, True),
    ],
)
def test_a_value_fits_an_annotation(value: Any, hint: Any, fine: bool) -> None:
    assert fits(value, hint) is fine


@pytest.mark.parametrize(
    "target", [None, 1, "", "../x", "nowhere.Class", "torch.optim.Nope", "math.pi", "a b.c", "x" * 999]
)
def test_a_class_that_cannot_be_used_is_named(target: Any) -> None:
    with pytest.raises(ConfigError, match="_target_"):
        resolve("optimizer", target)
