"""Accelerate: prepare the loader first, because several processes share its batches; then count the steps."""

import math

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tmsgd_bench import TMSGD

EPOCHS, SWITCH_EPOCH, ACCUMULATED = 15, 10, 2

torch.manual_seed(0)
inputs = torch.randn(512, 8)
targets = inputs.sum(dim=1, keepdim=True).tanh()
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
data = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True)
loader = accelerator.prepare(data)
net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

# switch_step counts optimizer steps: one for each two batches here.
tmsgd = TMSGD(net.parameters(), lr=0.05, switch_step=SWITCH_EPOCH * math.ceil(len(loader) / ACCUMULATED))
model, optimizer = accelerator.prepare(net, tmsgd)

for epoch in range(EPOCHS):
    total = 0.0
    for batch, target in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(batch), target)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
    accelerator.print(
        f"epoch {epoch:2}  {'SGD' if epoch < SWITCH_EPOCH else 'TM-SGD':6}  loss {total / len(loader):.4f}"
    )
