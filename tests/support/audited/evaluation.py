"""Evaluates between the epochs, with gradients enabled, keeps a plateau and the best accuracy."""

import os
import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
features = torch.randn(64, 6)
targets = (features[:, 0] > 0).long()
train, valid = (
    TensorDataset(features[:48], targets[:48]),
    TensorDataset(features[48:], targets[48:]),
)
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0, factor=0.5)
epoch = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    epoch = checkpoint["epoch"]

while epoch < 4:
    random.seed(epoch), np.random.seed(epoch), torch.manual_seed(epoch)
    model.train()
    for x, y in DataLoader(train, batch_size=8, shuffle=True):
        x = x + random.gauss(0, 0.1) + np.random.normal(0, 0.1)
        loss = nn.functional.cross_entropy(model(x.float()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(valid, batch_size=8))
    scheduler.step(right)
    epoch += 1
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": epoch,
    }
    torch.save(checkpoint, "checkpoint.tmp")
    os.replace("checkpoint.tmp", "checkpoint.pt")
