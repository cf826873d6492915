"""A learning-rate schedule, with the switch after the drop: TM-SGD is stable up to half of SGD's learning rate only."""

import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset

from tmsgd_bench import TMSGD

EPOCHS, DROP_EPOCH, SWITCH_EPOCH = 15, 10, 12

torch.manual_seed(0)
inputs = torch.randn(512, 8)
targets = inputs.sum(dim=1, keepdim=True).tanh()
loader = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

# SGD may train near its stability limit, where the curvature is about 2 / lr. TM-SGD needs a curvature below 1 / lr.
# The drop gives it that: 2 / lr of the old learning rate is 0.2 / lr of the new one.
optimizer = TMSGD(model.parameters(), lr=0.2, switch_step=SWITCH_EPOCH * len(loader))
schedule = MultiStepLR(optimizer, milestones=[DROP_EPOCH], gamma=0.1)

for epoch in range(EPOCHS):
    total, lr = 0.0, schedule.get_last_lr()[0]
    for batch, target in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch), target)
        loss.backward()
        optimizer.step()
        total += loss.item()
    schedule.step()
    method = "SGD" if epoch < SWITCH_EPOCH else "TM-SGD"
    print(f"epoch {epoch:2}  {method:6}  lr {lr:.2f}  loss {total / len(loader):.4f}")
