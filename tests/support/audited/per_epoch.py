"""Saves after every epoch: BatchNorm, dropout, AdamW, a schedule, a frozen layer in eval mode."""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
features = torch.randn(48, 6)
dataset = TensorDataset(features, (features[:, 0] > 0).long())
model = nn.Sequential(
    nn.Linear(6, 8),
    nn.BatchNorm1d(8),
    nn.ReLU(),
    nn.Dropout(0.2),
    nn.BatchNorm1d(8),
    nn.Linear(8, 2),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
loss_function = nn.CrossEntropyLoss()
first_epoch = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    first_epoch = checkpoint["epoch"]

for epoch in range(first_epoch, 4):
    torch.manual_seed(epoch)
    model.train()
    model[4].eval()
    for x, y in DataLoader(dataset, batch_size=8, shuffle=True):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
    scheduler.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": epoch + 1,
    }
    torch.save(checkpoint, "checkpoint.tmp")
    os.replace("checkpoint.tmp", "checkpoint.pt")
