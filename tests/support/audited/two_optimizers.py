"""A generator and a discriminator with an optimizer each, which take turns."""

import os

import torch
from torch import nn

torch.manual_seed(0)
real = torch.randn(40, 4) + 2
generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
discriminator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=0.01)
optimizer_g = torch.optim.Adam(generator.parameters(), lr=0.01)
parts = {"g": generator, "d": discriminator, "opt_d": optimizer_d, "opt_g": optimizer_g}
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(checkpoint[name])
    done = checkpoint["done"]

loss_function = nn.BCEWithLogitsLoss()
for step in range(done, 12):
    torch.manual_seed(step)
    fake = generator(torch.randn(8, 2))
    some = real[torch.randint(40, (8,))]
    loss = loss_function(discriminator(some), torch.ones(8, 1))
    loss = loss + loss_function(discriminator(fake.detach()), torch.zeros(8, 1))
    optimizer_d.zero_grad()
    loss.backward()
    optimizer_d.step()
    loss = loss_function(discriminator(fake), torch.ones(8, 1))
    optimizer_g.zero_grad()
    loss.backward()
    optimizer_g.step()
    if step % 3 == 2:
        checkpoint = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**checkpoint, "done": step + 1}, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
