"""Lightning: configure_optimizers turns the switch epoch into steps; Lightning does the rest."""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tmsgd_bench import TMSGD

EPOCHS, SWITCH_EPOCH = 15, 10


class Regression(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> TMSGD:
        # estimated_stepping_batches knows of accumulated gradients and of the number of devices.
        steps_per_epoch = int(self.trainer.estimated_stepping_batches) // EPOCHS
        return TMSGD(self.parameters(), lr=0.05, switch_step=SWITCH_EPOCH * steps_per_epoch)

    def on_train_epoch_end(self) -> None:
        method = "SGD" if self.current_epoch < SWITCH_EPOCH else "TM-SGD"
        print(f"epoch {self.current_epoch:2}  {method:6}  loss {self.trainer.callback_metrics['loss']:.4f}")


lightning.seed_everything(0, verbose=False)
inputs = torch.randn(512, 8)
loader = DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True).tanh()), batch_size=32, shuffle=True)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", **quiet)
trainer.fit(Regression(), loader)
optimizer = trainer.optimizers[0]
