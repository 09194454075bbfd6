"""Trains a small classifier and saves it after every epoch, the way many tutorials do.

    python looks_right.py

When it finds checkpoint.pt, it continues from there. Notebook 7 audits it.
"""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SEED = 123
torch.manual_seed(SEED)

# 192 points in 20 dimensions. The largest of its first ten numbers gives a point its name.
points = torch.randn(192, 20)
animals = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay"]
names = [animals[index] for index in points[:, :10].argmax(dim=1)]
classes = sorted(set(names))
targets = torch.tensor([classes.index(name) for name in names])
loader = DataLoader(TensorDataset(points, targets), batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
first_epoch = 0

if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    first_epoch = checkpoint["epoch"] + 1

for epoch in range(first_epoch, 6):
    for features, labels in loader:
        loss = nn.functional.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch},
        "checkpoint.pt",
    )
    print(f"epoch {epoch}: loss of the last batch {loss.item():.4f}")
