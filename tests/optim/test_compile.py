"""``torch.compile(optimizer.step)``: one graph for each phase, no break, and the eager step's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tmsgd_bench.optim import TMSGD

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")

SWITCH, STEPS = 3, 14
PHASES = 5  # the first step; SGD with any step count; two self-starting steps; the rule


@pytest.fixture(autouse=True)
def forget_compiled_code() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(
    wrap: Callable[[Any], Any], lr: float | torch.Tensor = 0.05, schedule: bool = False, **options: Any
) -> torch.Tensor:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    inputs = torch.randn(16, 4, dtype=torch.float64)
    optimizer = TMSGD(model.parameters(), lr, switch_step=SWITCH, **options)
    step = wrap(optimizer.step)  # before there is a scheduler, which wraps step() in what Dynamo does not look into
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9 if schedule else 1.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        step()
        scheduler.step()
    assert optimizer.param_groups[0]["step"] == STEPS
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9, "weight_decay": 0.01}, {"maximize": True}, {"foreach": True}]
)
def test_a_compiled_step_computes_what_the_eager_one_does_in_one_graph_for_each_phase(options: dict[str, Any]) -> None:
    counter = CompileCounter()
    compiled = train(lambda step: torch.compile(step, backend=counter, fullgraph=True), **options)
    torch.testing.assert_close(compiled, train(lambda step: step, **options), rtol=1e-14, atol=1e-14)
    assert counter.frame_count <= PHASES


def test_a_tensor_learning_rate_may_change_at_every_step_without_compiling_again() -> None:
    counter = CompileCounter()
    compiled = train(
        lambda step: torch.compile(step, backend=counter, fullgraph=True),
        lr=torch.tensor(0.05, dtype=torch.float64),
        schedule=True,
    )
    eager = train(lambda step: step, lr=torch.tensor(0.05, dtype=torch.float64), schedule=True)
    torch.testing.assert_close(compiled, eager, rtol=1e-13, atol=1e-13)
    assert counter.frame_count <= PHASES


def test_a_state_from_a_compiled_step_goes_on_eagerly() -> None:
    def compile_half(step: Any) -> Callable[[], None]:
        compiled, calls = torch.compile(step, backend="eager"), iter(range(STEPS))
        return lambda: compiled() if next(calls) < 8 else step()

    torch.testing.assert_close(train(compile_half), train(lambda step: step), rtol=1e-14, atol=1e-14)
