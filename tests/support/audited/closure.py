"""Gradients are computed inside the step, in a closure, as Lightning does."""

import os

import torch
from torch import nn

torch.manual_seed(0)
features = torch.randn(60, 6)
targets = (features[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    done = checkpoint["done"]

for step in range(done, 12):
    torch.manual_seed(step)
    indices = torch.randint(60, (8,))

    def closure(indices=indices):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(features[indices]), targets[indices])
        loss.backward()
        return loss

    optimizer.step(closure)
    if step % 3 == 2:
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**checkpoint, "done": step + 1}, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
