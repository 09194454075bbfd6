"""A warm-up from rate 0: the weights are the same at several steps. Resumes with an argument."""

import argparse
import os

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--resume", action="store_true")
parser.add_argument("--steps", type=int, default=16)
arguments = parser.parse_args()

torch.manual_seed(0)
features = torch.randn(60, 6)
targets = (features[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: max(0, n - 3) / 12)
done = 0
if arguments.resume and os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    done = checkpoint["done"]

for step in range(done, arguments.steps):
    torch.manual_seed(step)
    indices = torch.randint(60, (8,))
    loss = nn.functional.cross_entropy(model(features[indices]), targets[indices])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step % 2 == 1:
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "done": step + 1,
        }
        torch.save(checkpoint, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
