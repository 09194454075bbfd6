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
        return len(self.minibatch_loss) - self.epoch * self.batches_per_epoch
