"""Trains a small classifier and saves it after every fourth batch. Notebook 7 has it repaired.

    python saves_inside.py

When it finds checkpoint.pt, it continues from there: almost.
"""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SEED = 123
torch.manual_seed(SEED)

points = torch.randn(384, 20)
targets = points[:, :5].argmax(dim=1)
loader = DataLoader(TensorDataset(points, targets), batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
first_epoch = 0

if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    first_epoch = checkpoint["epoch"]

for epoch in range(first_epoch, 2):
    torch.manual_seed(SEED + epoch)
    for batch, (features, labels) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if batch % 4 == 3:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({"epoch": epoch, "batch": batch, **states}, "checkpoint.pt")
