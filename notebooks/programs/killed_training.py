"""LeNet-5 as in notebooks 1 and 2, in a process that can be killed in the middle of an epoch.

    python programs/killed_training.py CHECKPOINT NUM_EPOCHS KILL_AFTER SOURCE BATCH_SIZE DEVICE

Continues from CHECKPOINT if it exists, and otherwise from what notebook 1 saved. Saves to
CHECKPOINT after every epoch and every eight batches. KILL_AFTER is the number of steps after which
the process kills itself, with signal 9, which no program can catch; 0 for never.
"""

import os
import sys

sys.path.insert(0, "..")

import torch
from torch import nn

from helper.checkpoint import load_checkpoint
from helper.dataset import get_dataloaders_mnist
from helper.reproducibility import compute_sha256, set_deterministic
from helper.train import train_model


class LeNet5(nn.Module):
    """Gray images [B, 1, 32, 32] in, logits [B, num_classes] out."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5),  # [B, 6, 28, 28]
            nn.Tanh(),
            nn.MaxPool2d(kernel_size=2),  # [B, 6, 14, 14]
            nn.Conv2d(6, 16, kernel_size=5),  # [B, 16, 10, 10]
            nn.Tanh(),
            nn.MaxPool2d(kernel_size=2),  # [B, 16, 5, 5]
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x):
        x = self.features(x)
        x = torch.flatten(x, start_dim=1)
        return self.classifier(x)


def kill_after(steps, optimizer):
    """Kill this process after a number of optimizer steps."""
    taken = 0

    def count_and_kill(*_):
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), 9)

    optimizer.register_step_post_hook(count_and_kill)


def main():
    path, num_epochs, steps, source, batch_size, device = sys.argv[1:]
    set_deterministic()
    loaders = get_dataloaders_mnist(int(batch_size), source=source)
    model = LeNet5().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.1, patience=1
    )
    start = path if os.path.exists(path) else "saved_data/checkpoint.pt"
    history = load_checkpoint(start, model, optimizer, scheduler)
    print("Begins after", history.position)
    kill_after(int(steps), optimizer)
    train_model(
        model,
        int(num_epochs),
        *loaders,
        optimizer,
        device,
        scheduler,
        history=history,
        checkpoint_path=path,
        checkpoint_every=8,
        logging_interval=10,
    )
    print("SHA-256:", compute_sha256(model.state_dict(), optimizer.state_dict()))


if __name__ == "__main__":
    main()
