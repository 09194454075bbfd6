"""Two workers that augment; the seed of a batch travels to them with its indices."""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Batches(Dataset):
    """Item number `step` is a whole batch, a function of the step alone."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(60, 6, generator=generator)
        self.targets = (self.features[:, 0] > 0).long()

    def __getitem__(self, step):
        generator = torch.Generator().manual_seed(step)
        indices = torch.randint(60, (8,), generator=generator)
        noise = 0.1 * torch.randn(8, 6, generator=generator)
        return self.features[indices] + noise, self.targets[indices]


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    done = checkpoint["done"]

loader = DataLoader(Batches(), batch_size=None, sampler=range(done, 16), num_workers=2)
for step, (x, y) in enumerate(loader, done):
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 4 == 3:
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**checkpoint, "done": step + 1}, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
