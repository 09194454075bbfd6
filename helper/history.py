"""What has been trained so far, in plain numbers that go into a checkpoint as they are."""

from dataclasses import dataclass, field


@dataclass
class History:
    """The curves of one training run and the seed that its randomness comes from.

    `vars(history)` is a plain dict of numbers and lists, so that `torch.save` and
    `torch.load(..., weights_only=True)` take it, and `History(**state)` makes it a History again.
    """

    seed: int = 123
    minibatch_loss: list[float] = field(default_factory=list)  # one value per batch
    train_acc: list[float] = field(default_factory=list)  # percent, one value per epoch
    valid_acc: list[float] = field(default_factory=list)  # percent, one value per epoch
    learning_rate: list[float] = field(default_factory=list)  # used in each epoch

    @property
    def epoch(self):
        """How many epochs are done."""
        return len(self.train_acc)
