"""A small run with randomness wherever a run can have it, for the tests that cut it."""

import contextlib
import io
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from helper.checkpoint import load_checkpoint
from helper.history import History
from helper.reproducibility import compute_sha256
from helper.train import train_model

NUM_EPOCHS, BATCHES = 3, 5


class Blots(Dataset):
    """70 examples of 6 features in 3 classes, with noise through PyTorch, NumPy and Python."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(70, 6, generator=generator)
        self.targets = torch.randint(3, (70,), generator=generator)
        self.own = [unseeded(), random.Random(), {"numpy": np.random.default_rng()}]

    def __reduce__(self):
        return type(self), ()  # PyTorch can't send a torch.Generator to a spawned worker

    def __len__(self):
        return 70

    def __getitem__(self, index):
        own, python, others = self.own
        noise = torch.randn(6) + np.random.randn() + random.gauss()
        noise += torch.randn(6, generator=own) + python.gauss() + others["numpy"].normal()
        return self.features[index] + 0.1 * noise, self.targets[index]


class BlotsByBatch(Blots):
    """The same, a whole batch at a time."""

    def __getitem__(self, indices):
        return default_collate([super(BlotsByBatch, self).__getitem__(i) for i in indices])


def collate(examples):
    features, targets = default_collate(examples)
    noise = torch.randn(6) + np.random.randn() + random.gauss()
    return features + 0.1 * noise, targets


def unseeded():
    """Return a generator whose state nobody has seeded."""
    generator = torch.Generator()
    generator.seed()
    return generator


def by_batch():
    return BatchSampler(RandomSampler(Blots(), generator=unseeded()), 16, drop_last=False)


def with_workers(number, **settings):
    return DataLoader(Blots(), 16, shuffle=True, num_workers=number, collate_fn=collate, **settings)


LOADERS = {
    "shuffled": lambda: with_workers(0),
    "generator of the loader": lambda: DataLoader(Blots(), 16, shuffle=True, generator=unseeded()),
    "generator of the sampler": lambda: DataLoader(
        Blots(), 16, sampler=RandomSampler(Blots(), generator=unseeded())
    ),
    "generator inside the batch sampler": lambda: DataLoader(Blots(), batch_sampler=by_batch()),
    "batch_size=None": lambda: DataLoader(BlotsByBatch(), sampler=by_batch(), batch_size=None),
    "weighted": lambda: DataLoader(
        Blots(), 16, sampler=WeightedRandomSampler(torch.arange(1.0, 71), 70)
    ),
    "one worker": lambda: with_workers(1),
    "two workers": lambda: with_workers(2),
    "persistent workers": lambda: with_workers(2, persistent_workers=True),
}


class Net(nn.Module):
    """BatchNorm, dropout, an LSTM, a part that stays in evaluation mode, noise in either mode."""

    def __init__(self):
        super().__init__()
        self.normalize = nn.BatchNorm1d(6)
        self.frozen = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(6)).eval()
        self.lstm = nn.LSTM(1, 8, batch_first=True)
        self.classify = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 3))

    def forward(self, x):
        x = self.frozen(self.normalize(x))
        logits = self.classify(self.lstm(x.unsqueeze(2))[0][:, -1])
        return logits + torch.randn_like(logits)


class DigitsNet(nn.Module):
    """For digits of 16 x 16: a linear layer, noise on its input, and dropout."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(16 * 16, 10)

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.linear(self.dropout(x.flatten(1)))


class Run:
    """A fresh model, optimizer, scheduler and history with their loaders."""

    def __init__(self, loader="shuffled", scheduler_every="batch", seed=5):
        torch.manual_seed(1)
        self.model = Net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = (
            OneCycleLR(self.optimizer, 0.05, total_steps=15)
            if scheduler_every == "batch"
            else ReduceLROnPlateau(self.optimizer, "max", patience=0)
        )
        self.scheduler_every = scheduler_every
        self.loaders = [LOADERS[loader]() for _ in range(3)]
        self.history = History(seed=seed)
        self.printed = ""

    @property
    def parts(self):
        return self.model, self.optimizer, self.scheduler

    def load(self, path):
        self.history = load_checkpoint(path, *self.parts)
        return self

    def train(self, num_epochs=NUM_EPOCHS, **settings):
        """Train silently, and keep what was printed."""
        printed = io.StringIO()
        settings = {"scheduler_every": self.scheduler_every, "history": self.history, **settings}
        with contextlib.redirect_stdout(printed):
            try:
                train_model(
                    *(self.model, num_epochs, *self.loaders, self.optimizer, "cpu"),
                    scheduler=self.scheduler,
                    **settings,
                )
            finally:
                self.printed = printed.getvalue()
        return self

    def stop_in(self, batch, path=None, **settings):
        """Train until a stop arrives while the step of this batch of the call is taken."""
        self.optimizer.register_step_post_hook(at_call(batch, interrupt))
        with contextlib.suppress(KeyboardInterrupt):
            self.train(checkpoint_path=path, **settings)
            raise AssertionError("nothing has stopped this run")
        return self

    def sha256(self):
        states = (part.state_dict() for part in self.parts if part is not None)
        return compute_sha256(*states, self.history.state_dict())


def at_call(number, action, then=lambda *_, **__: None):
    """Return a function that does `action` when it is called for the `number`-th time (from 0)."""
    calls = iter(range(number + 1))

    def call(*arguments, **settings):
        if next(calls, None) == number:
            action()
        return then(*arguments, **settings)

    return call


def interrupt(number=signal.SIGINT):
    signal.raise_signal(number)


def train_in_a_process(folder, loader="shuffled", hook=None, patch=None, **settings):
    """Continue from `folder`/run.pt if it is there; write the hash of the end to `folder`/result.

    `hook` is `(batch, signal)`: the process sends itself this signal after so many steps, and
    `patch` is `(function, call, signal)`: when it calls this function of `os` or `torch` so often.
    """
    folder, path = Path(folder), Path(folder) / "run.pt"
    run = Run(loader)
    if path.exists():
        run.load(path)
    if hook is not None:
        batch, number = hook
        run.optimizer.register_step_post_hook(at_call(batch, lambda: os.kill(os.getpid(), number)))
    if patch is not None:
        name, call, number = patch
        module = {"os": os, "torch": torch}[name.partition(".")[0]]
        function = name.partition(".")[2]
        own = getattr(module, function)
        setattr(module, function, at_call(call, lambda: os.kill(os.getpid(), number), own))
    run.train(checkpoint_path=path, **settings)
    (folder / "result").write_text(run.sha256())
