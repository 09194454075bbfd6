"""What has been trained so far, in plain numbers that go into a checkpoint as they are."""

from dataclasses import dataclass, field


@dataclass
class History:
    """The curves of a training run, its position, and the seed that its randomness comes from."""

    seed: int = 123
    minibatch_loss: list[float] = field(default_factory=list)  # one value per batch
    train_acc: list[float] = field(default_factory=list)  # percent, one value per epoch
    valid_acc: list[float] = field(default_factory=list)  # percent, one value per epoch
    learning_rate: list[float] = field(default_factory=list)  # that of each epoch's last batch
    batches_per_epoch: int = 0  # 0 until training begins
    batch_size: int = 0  # examples in the first batch of all
    # Parts of a checkpoint that were not loaded with this history; neither saved nor compared.
    not_loaded: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def epoch(self):
        """How many epochs are done."""
        return len(self.train_acc)

    @property
    def batch(self):
        """How many batches of the next epoch are trained, in [0, batches_per_epoch]."""
        done = self.epoch * self.batches_per_epoch
        return len(self.minibatch_loss) - done if self.batches_per_epoch else 0

    @property
    def position(self):
        """Epochs and batches in words."""
        inside = f" and {self.batch} of {self.batches_per_epoch} batches" if self.batch else ""
        return f"{self.epoch} epochs{inside}"

    def state_dict(self):
        """Return everything but `not_loaded`."""
        return {name: value for name, value in vars(self).items() if name != "not_loaded"}


def is_history(state):
    """Tell whether a dict is the state of a History."""
    kinds = {name: type(value) for name, value in History().state_dict().items()}
    return (
        {name: type(value) for name, value in state.items()} == kinds
        and all(0 <= value < 2**32 for value in state.values() if type(value) is int)
        and all(type(x) is float for v in state.values() if type(v) is list for x in v)
    )
