"""An own training loop: nothing in it changes, because TMSGD counts its own steps."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tmsgd_bench import TMSGD

EPOCHS, SWITCH_EPOCH = 15, 10

torch.manual_seed(0)
inputs = torch.randn(512, 8)
targets = inputs.sum(dim=1, keepdim=True).tanh()
loader = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

# SGD for the first 10 epochs, then the multistep method. switch_step counts optimizer steps, not epochs.
optimizer = TMSGD(model.parameters(), lr=0.05, switch_step=SWITCH_EPOCH * len(loader))

for epoch in range(EPOCHS):
    total = 0.0
    for batch, target in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch), target)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch:2}  {'SGD' if epoch < SWITCH_EPOCH else 'TM-SGD':6}  loss {total / len(loader):.4f}")
