"""Saves every three steps; each step is a function of its number, and knows what is done."""

import os

import torch
from torch import nn

torch.manual_seed(0)
features = torch.randn(60, 6)
targets = (features[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=24)
noise = torch.Generator()
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    done = checkpoint["done"]

for step in range(done, 24):
    torch.manual_seed(step)
    noise.manual_seed(step)
    indices = torch.randint(60, (8,))
    x = features[indices] + 0.1 * torch.randn(8, 6, generator=noise)
    weight = min(1.0, step / 20)
    loss = weight * nn.functional.cross_entropy(model(x), targets[indices])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step < 23:
        scheduler.step()
    if step % 3 == 2:
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "done": step + 1,
        }
        torch.save(checkpoint, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
