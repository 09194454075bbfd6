"""What has been trained so far, as plain numbers that go straight into a checkpoint."""

import operator
from dataclasses import dataclass, field

CURVES = ("minibatch_loss", "train_acc", "valid_acc", "learning_rate")


@dataclass
class History:
    """The curves of a training run, its position, its seed, and what must stay the same.

    Raises a ValueError for a seed that isn't an integer in [0, 2**32).
    """

    seed: int = 123
    minibatch_loss: list[float] = field(default_factory=list)  # one value per batch
    train_acc: list[float] = field(default_factory=list)  # percent, one value per epoch
    valid_acc: list[float] = field(default_factory=list)  # percent, one value per epoch
    learning_rate: list[float] = field(default_factory=list)  # of each epoch's last batch
    # 0 or empty until `train_model` starts the run. After that, every call compares them.
    batches_per_epoch: int = 0
    batch_size: int = 0  # examples in the first batch
    settings: dict[str, str] = field(default_factory=dict)  # what else must stay the same, in words
    eval_modules: list[str] = field(default_factory=list)  # trained in eval mode: frozen BatchNorm
    # About the checkpoint that this was loaded from. Neither saved nor compared.
    not_loaded: tuple[str, ...] = field(default=(), repr=False, compare=False)
    others: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self):
        if isinstance(self.seed, bool) or not hasattr(self.seed, "__index__"):
            raise ValueError(f"seed must be an integer in [0, 2**32), not {self.seed!r}.")
        self.seed = operator.index(self.seed)  # a saved NumPy integer can't be loaded
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be an integer in [0, 2**32), not {self.seed}.")

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.train_acc)

    @property
    def batch(self) -> int:
        """How many batches of the current epoch are done, in [0, batches_per_epoch]."""
        done = self.epoch * self.batches_per_epoch
        return len(self.minibatch_loss) - done if self.batches_per_epoch else 0

    @property
    def position(self) -> str:
        """The epochs and batches that are done, in words."""
        epochs = "1 epoch" if self.epoch == 1 else f"{self.epoch} epochs"
        if self.batch == 0:
            return epochs
        return f"{epochs} and {self.batch} of {self.batches_per_epoch} batches"

    def state_dict(self) -> dict:
        """Return everything that is saved; the lists are not copied."""
        state = dict(vars(self))
        del state["not_loaded"], state["others"]
        return state

    def load_state_dict(self, state: dict) -> None:
        """Replace everything that is saved."""
        vars(self).update(state)

    def continues(self, other: "History") -> bool:
        """Return whether `other` is this run at an earlier point, or at this one."""
        if self.seed != other.seed:
            return False
        if self.settings and other.settings and self.settings != other.settings:
            return False
        for name in CURVES:
            curve = getattr(other, name)
            if getattr(self, name)[: len(curve)] != curve:
                return False
        return True


def is_valid_state(state) -> bool:
    """Return whether a value has the form of a History's `state_dict`."""
    if not isinstance(state, dict):
        return False
    expected = History().state_dict()
    if {name: type(value) for name, value in state.items()} != {
        name: type(value) for name, value in expected.items()
    }:
        return False
    numbers = [state["seed"], state["batches_per_epoch"], state["batch_size"]]
    floats = [value for name in CURVES for value in state[name]]
    words = [*state["settings"], *state["settings"].values(), *state["eval_modules"]]
    return (
        all(0 <= number < 2**32 for number in numbers)
        and all(type(value) is float for value in floats)
        and all(type(word) is str for word in words)
    )
