"""What a process is set to before a run, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tmsgd_bench.engine import environment
from tmsgd_bench.engine.spec import RunOptions

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@pytest.fixture(autouse=True)
def precision_as_before() -> object:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("tf32", [False, True])
def test_convolutions_and_products_round_their_factors_only_if_asked_to(tf32: bool, tmp_path: Path) -> None:
    environment.prepare_process(RunOptions(tmp_path, device="cpu"), tf32)
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.backends.cuda.matmul.allow_tf32 is tf32


@needs_gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_on_a_gpu_float32_has_24_bits_unless_tf32_is_asked_for(tf32: bool, tmp_path: Path) -> None:
    device = environment.prepare_process(RunOptions(tmp_path, device="cuda"), tf32)
    images, kernels = torch.rand(8, 64, 32, 32, device=device), torch.rand(64, 64, 3, 3, device=device)
    exact = F.conv2d(images.double(), kernels.double())
    error = float(((F.conv2d(images, kernels) - exact) / exact).abs().max())
    assert (error > 2**-16) is tf32
    assert environment.describe(device)["tf32"] is tf32
