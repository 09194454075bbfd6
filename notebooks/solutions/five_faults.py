"""The five faulty scripts of exercise 7.1: one that continues exactly, and an edit for each fault.

    python five_faults.py A > a.py

prints the first of them. The reports in the exercise are the audit's, with --stops 20.
"""

import sys

SCRIPT = """\
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SEED = 123
torch.manual_seed(SEED)
points = torch.randn(192, 20)
targets = points[:, :5].argmax(dim=1)
order = torch.Generator()
loader = DataLoader(TensorDataset(points, targets), batch_size=32, shuffle=True, generator=order)

hidden = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU())
model = nn.Sequential(hidden, nn.Dropout(0.2), nn.Linear(16, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def save(epoch):
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"epoch": epoch, **states}, "checkpoint.pt")


first_epoch = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    first_epoch = checkpoint["epoch"]

for epoch in range(first_epoch, 6):
    order.manual_seed(SEED + epoch)
    torch.manual_seed(SEED + epoch)
    for batch, (features, labels) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()
    save(epoch + 1)
"""

STATES = "    states = {name: part.state_dict() for name, part in parts.items()}\n"
STEP = "        optimizer.step()\n"
FAULTS = {
    "A": (
        "It saves the parameters and forgets the buffers.",
        [
            (STATES, STATES + '    states["model"] = dict(model.named_parameters())\n'),
            ('checkpoint["model"])', 'checkpoint["model"], strict=False)'),
        ],
    ),
    "B": (
        "It saves inside an epoch, and starts that epoch over.",
        [(STEP, STEP + "        if batch == 0:\n            save(epoch)\n")],
    ),
    "C": (
        "It doesn't load the optimizer's state.",
        [('    optimizer.load_state_dict(checkpoint["optimizer"])\n', "")],
    ),
    "D": (
        "It seeds the order of every epoch, but the generator that dropout uses only once.",
        [("    torch.manual_seed(SEED + epoch)\n", "")],
    ),
    "E": (
        "It saves the weights in half precision.",
        [
            (
                STATES,
                STATES
                + '    weights = states["model"].items()\n'
                + '    states["model"] = {name: tensor.half() for name, tensor in weights}\n',
            )
        ],
    ),
}


def faulty_script(letter):
    """Return the source of one of the five scripts."""
    script = SCRIPT
    for old, new in FAULTS[letter][1]:
        if script.count(old) != 1:
            raise ValueError(f"{old!r} occurs {script.count(old)} times")
        script = script.replace(old, new)
    return script


if __name__ == "__main__":
    print(faulty_script(sys.argv[1]), end="")
