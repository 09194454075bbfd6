"""Float16 with a GradScaler that skips steps and doubles its scale, and gradient accumulation."""

import os

import torch
from torch import nn

torch.manual_seed(0)
features = torch.randn(60, 6)
targets = (features[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=3)
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scaler.load_state_dict(checkpoint["scaler"])
    done = checkpoint["done"]

for step in range(done, 30):
    for part in range(2):
        torch.manual_seed(2 * step + part)
        indices = torch.randint(60, (8,))
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(features[indices]).float(), targets[indices])
        scaler.scale(loss / 2).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    if step % 4 == 3:
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "done": step + 1,
        }
        torch.save(checkpoint, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
