"""A frozen teacher in eval mode is asked without gradients; the student has keyword arguments."""

import os

import torch
from torch import nn


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, *, features, scale):
        return self.layers(features["values"]) * scale


torch.manual_seed(0)
features = torch.randn(60, 6)
teacher = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2)).eval().requires_grad_(False)
student = Student()
optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    student.load_state_dict(checkpoint["student"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    done = checkpoint["done"]

for step in range(done, 12):
    torch.manual_seed(step)
    x = features[torch.randint(60, (8,))]
    with torch.no_grad():
        wanted = teacher(x)
    loss = nn.functional.mse_loss(student(features={"values": x}, scale=1.5), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 3 == 2:
        checkpoint = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**checkpoint, "done": step + 1}, "checkpoint.tmp")
        os.replace("checkpoint.tmp", "checkpoint.pt")
