"""Right and wrong answers to the exercises of notebook 7, each wrong one with its hint."""

from tests.answers.collect import Answers

RIGHT, WRONG = {}, {}

# 1 · Five reports.

diagnose = Answers("diagnose", RIGHT, WRONG)

CAUSES = {"A": 3, "B": 7, "C": 1, "D": 6, "E": 4}


def with_cause(**other):
    def diagnose():
        return CAUSES | other

    diagnose.__name__ = "_".join(f"{letter}_{cause}" for letter, cause in other.items())
    return diagnose


@diagnose.wrong("there is no E in your dict")
def four_causes():
    return {letter: cause for letter, cause in CAUSES.items() if letter != "E"}


@diagnose.wrong("the answer is of type list, not a dict")
def list_of_causes():
    return [*CAUSES.values()]


@diagnose.right
def in_another_order():
    return dict(sorted(CAUSES.items(), reverse=True))


diagnose.wrong("A is '3', not a number from 1 to 8")(with_cause(A="3"))
diagnose.wrong("A is 9, not a number from 1 to 8")(with_cause(A=9))
diagnose.wrong("report A: only the buffers differ")(with_cause(A=8))
diagnose.wrong("report B: after the first save in an epoch")(with_cause(B=5))
diagnose.wrong("report C: two pieces are those of step 0")(with_cause(C=2))
diagnose.wrong("report D: weights, mode and batch are right")(with_cause(D=5))
diagnose.wrong("report E: the weights are those of no step")(with_cause(E=3))
diagnose.wrong("there is no report F")(with_cause(F=1))


# 2 · Where did it resume?

restored_to = Answers("restored_to", RIGHT, WRONG)


def by_weights(whole, row):
    return [step for step, other in enumerate(whole) if other["weights"] == row["weights"]]


@restored_to.wrong("the answer should be 1; yours is 0")
def the_first(whole, row):
    return next(iter(by_weights(whole, row)), None)


@restored_to.wrong("with the same weights in rows 0 to 2, the answer should be 1; yours is 2")
def the_last(whole, row):
    return max(by_weights(whole, row), default=None)


@restored_to.wrong("for the weights of row 5 with the batch of row 0, the answer should be 5")
def equal_rows(whole, row):
    return max((step for step, other in enumerate(whole) if other == row), default=None)


@restored_to.wrong(
    "for the weights of row 5 with the batch of row 0, the answer should be 5; yours"
)
def by_batch(whole, row):
    return max((s for s, other in enumerate(whole) if other["batch"] == row["batch"]), default=None)


@restored_to.wrong("for weights that no row has, the answer should be None; yours is 0")
def zero_if_none(whole, row):
    return restored_by_index(whole, row) or 0


@restored_to.wrong("for weights that no row has, your function raises ValueError")
def raises_if_none(whole, row):
    places = by_weights(whole, row)
    return max([step for step in places if whole[step]["batch"] == row["batch"]] or places)


@restored_to.wrong("and a batch of none of them, the answer should be 2; yours is 0")
def first_of_several(whole, row):
    places = by_weights(whole, row)
    return min(
        [step for step in places if whole[step]["batch"] == row["batch"]] or places, default=None
    )


@restored_to.wrong("the answer should be 5; yours is None")
def batch_only_if_it_fits(whole, row):
    places = [step for step in by_weights(whole, row) if whole[step]["batch"] == row["batch"]]
    return max(places, default=None)


@restored_to.wrong("your function changes what it is given")
def eats_the_ledger(whole, row):
    while whole:
        if whole.pop()["weights"] == row["weights"]:
            return len(whole)
    return None


@restored_to.wrong("the answer is of type str, not int or None")
def step_as_text(whole, row):
    return str(the_last(whole, row))


@restored_to.right
def restored_by_index(whole, row):
    """A right one: it keeps the best candidate so far."""
    found, fits = None, False
    for step, other in enumerate(whole):
        if other["weights"] == row["weights"]:
            same_batch = other["batch"] == row["batch"]
            if same_batch or not fits:
                found, fits = step, same_batch
    return found


# 3 · Repair it.

repair = Answers("repair", RIGHT, WRONG)

LOOP = "    for batch, (features, labels) in enumerate(loader):\n"
SKIP = "        if epoch == first_epoch and batch < batches_done:\n            continue\n"
STEP_SEED = "        torch.manual_seed(1000 * epoch + batch)\n"
LOAD = '    first_epoch = checkpoint["epoch"]\n'


@repair.wrong("the script is as it was")
def unchanged(script):
    return script


@repair.wrong("your function returns nothing")
def prints_it(script):
    print(script[:0], end="")


@repair.wrong("the answer is of type list, not the text of a script")
def returns_lines(script):
    return script.splitlines()


def with_skipping(script, skip=SKIP + STEP_SEED):
    script = script.replace("first_epoch = 0\n", "first_epoch, batches_done = 0, 0\n")
    script = script.replace(LOAD, LOAD + '    batches_done = checkpoint["batch"] + 1\n')
    return script.replace(LOOP, LOOP + skip)


@repair.wrong("and restored to step 8, your run first differs at step 8: gradient")
def forgets_dropout(script):
    return with_skipping(script, SKIP)


@repair.wrong("and restored to step 8, your run first differs at step 8: batch")
def off_by_one(script):
    return with_skipping(script).replace('checkpoint["batch"] + 1', 'checkpoint["batch"]')


@repair.wrong("your run loses 11 steps: keep a save every four batches")
def only_saves_epochs(script):
    return script.replace("batch % 4 == 3", "batch == 11").replace(
        'first_epoch = checkpoint["epoch"]', 'first_epoch = checkpoint["epoch"] + 1'
    )


@repair.wrong("your script saves nothing before its end")
def saves_at_the_end_only(script):
    return script.replace("batch % 4 == 3", "epoch == 2 and batch == 11")


@repair.wrong("two epochs have the same order: keep the shuffling")
def no_shuffling(script):
    return with_skipping(script).replace("shuffle=True", "shuffle=False")


@repair.wrong("the model has lost its dropout")
def no_dropout(script):
    return with_skipping(script, SKIP).replace("nn.Dropout(0.2)", "nn.Identity()")


@repair.wrong("your script takes 12 steps; keep 2 epochs of 12 batches")
def one_epoch_less(script):
    return with_skipping(script).replace("range(first_epoch, 2)", "range(first_epoch, 1)")


@repair.wrong("of your script isn't Python: expected ':'")
def a_typo(script):
    return with_skipping(script).replace("enumerate(loader):", "enumerate(loader)")


@repair.wrong("the audit of your script says: The script fails by itself: ModuleNotFoundError")
def no_such_module(script):
    return "import nothing_like_that\n" + with_skipping(script)


@repair.wrong("your script fails when it is started again: KeyError")
def fails_when_it_resumes(script):
    return with_skipping(script).replace('checkpoint["batch"]', 'checkpoint["batches"]')


@repair.wrong("your script starts over")
def starts_over(script):
    return script.replace('os.path.exists("checkpoint.pt")', "False")


@repair.right
def saves_random_states(script):
    """A right one: it saves the state of the generator, and skips without drawing."""
    script = script.replace("first_epoch = 0\n", "first_epoch, batches_done, rng = 0, 0, None\n")
    script = script.replace(
        LOAD, LOAD + '    batches_done, rng = checkpoint["batch"] + 1, checkpoint["rng"]\n'
    )
    restore = "            torch.set_rng_state(rng)\n            rng = None\n"
    script = script.replace(LOOP, LOOP + SKIP + "        if rng is not None:\n" + restore)
    return script.replace('"batch": batch,', '"batch": batch, "rng": torch.get_rng_state(),')
