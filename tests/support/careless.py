"""What careless hands do with a notebook, by notebook: no wrong result without a word."""

from tests.support.ticks import Careless

# In a folder of its own, so that the next notebook finds the files of this one.
ASIDE = """
os.makedirs("careless/saved_data")
os.chdir("careless")
"""
BACK = """
os.chdir("..")
import shutil
shutil.rmtree("careless")
"""

STOP = """
import signal

for batches in (1, 6, 7):
    def stop(*_, left=iter(range(batches))):
        if next(left) == batches - 1:
            hook.remove()
            signal.raise_signal(signal.SIGINT)

    hook = optimizer.register_step_pre_hook(stop)
    print(injected.error_of("continue"), history.batch)
"""

CARELESS = {
    "1-lenet5-train-and-save": [
        Careless(
            "all cells once more, in the same kernel and with the files that are there",
            "final",
            "again = [name for name in injected.cells if not name.startswith('exercise')]\n"
            "again = [name for name in again if 'show(' not in injected.cells[name]]\n"
            "once, twice = [[injected.run(name) for name in again] for _ in range(2)]\n"
            "print(len(again) > 15, once == twice)",
            "True True\n",
        ),
    ],
    "2-lenet5-load-and-continue": [
        Careless(
            "a fresh model after loading, a different batch size, a different seed",
            "go-on",
            'injected.run("initialize")\n'
            'print(injected.error_of("continue"))\n'
            'injected.run("load-checkpoint")\n'
            "BATCH_SIZE = 100\n"
            'injected.run("data")\n'
            'print("Check its batch size and its dataset." in injected.error_of("continue"))\n'
            "BATCH_SIZE = 128\n"
            'injected.run("data")\n'
            "RANDOM_SEED = 7\n"
            'print(injected.error_of("load-checkpoint"))\n'
            "RANDOM_SEED = 123\n"
            'print(injected.run("load-checkpoint"), end="")',
            "Nothing is loaded yet: run the cell with load_checkpoint first.\n"
            "True\n"
            "Notebook 1 ran with RANDOM_SEED = 123: set it here too.\n"
            "Loaded after 2 epochs; the run's seed is 123\n",
        ),
        Careless(
            "the stop button of JupyterLab, which sends SIGINT, three times more in this epoch",
            "stop",
            STOP,
            "KeyboardInterrupt 17\nKeyboardInterrupt 23\nKeyboardInterrupt 30\n",
        ),
        Careless(
            "different settings, and all of it twice",
            "examples",
            f"{ASIDE}"
            "NUM_EPOCHS, RANDOM_SEED, BATCH_SIZE = 3, 7, 250\n"
            'injected.run("data")\n'
            "run = new_run(seed=7)\n"
            "begun = History(seed=7)\n"
            "save = {'checkpoint_path': 'saved_data/checkpoint.pt'}\n"
            'injected.run("begun = train_model(run[0], 1, *loaders, run[1], DEVICE, '
            'scheduler=run[2], history=begun, **save)")\n'
            "again = ['load-checkpoint', 'check-checkpoint', 'set-aside', 'stop', 'continue',\n"
            "         'uninterrupted', 'compare', 'proof']\n"
            "once = [injected.run(name) for name in again]\n"
            "number = os.stat('saved_data/continued.pt').st_ino  # equal runs save equal bytes\n"
            "twice = [injected.run(name) for name in again]\n"
            "print(once == twice, number == os.stat('saved_data/continued.previous.pt').st_ino)\n"
            "print(twice[0] + twice[-1], end='')"
            f"{BACK}",
            "True True\n"
            "Loaded after 1 epoch; the run's seed is 7\n"
            "✓ the checkpoint: all losses, accuracies and learning rates\n"
            "✓ the checkpoint: model, optimizer and scheduler are equal to the last bit "
            "after epoch 3\n",
        ),
    ],
    "solutions/2-lenet5-load-and-continue": [
        Careless(
            "all cells once more, with the file that is there",
            "try-it-4",
            "again = [name for name in injected.cells if name.startswith('try-it')]\n"
            "once = [injected.run(name) for name in again]\n"
            "number = os.stat('../saved_data/try-it.pt').st_ino\n"
            "twice = [injected.run(name) for name in again]\n"
            "print(once == twice, number == os.stat('../saved_data/try-it.previous.pt').st_ino)",
            "True True\n",
        ),
    ],
    "4-alexnet-train-and-save": [
        Careless(
            "the optimizer created again, and with it the model; then the training, twice",
            "half",
            f"{ASIDE}"
            "NUM_EPOCHS = 1\n"
            "for loader in loaders:\n"
            "    loader.dataset.images = loader.dataset.images[:64]\n"
            "    loader.dataset.targets = loader.dataset.targets[:64]\n"
            "again = ['set-aside', 'optimizer', 'train']\n"
            "once = [injected.run(name) for name in again], history.minibatch_loss\n"
            "number = os.stat('saved_data/alexnet.pt').st_ino\n"
            "twice = [injected.run(name) for name in again], history.minibatch_loss\n"
            "print(once == twice, number == os.stat('saved_data/alexnet.previous.pt').st_ino)"
            f"{BACK}",
            "True True\n",
        ),
    ],
    "5-alexnet-load-and-continue": [
        Careless(
            "a different seed, fewer epochs than are done, and a file of a different run",
            "move",
            "RANDOM_SEED = 7\n"
            'print(injected.error_of("load-checkpoint"))\n'
            "RANDOM_SEED = 123\n"
            'injected.run("load-checkpoint")\n'
            f"{ASIDE}"
            "NUM_EPOCHS = 1\n"
            "of_others = b'a file of a different run'\n"
            "_ = Path('saved_data/alexnet-continued.pt').write_bytes(of_others)\n"
            "printed = injected.run('continue')\n"
            "print('Nothing to do: 2 of 1 epochs are done already.' in printed)\n"
            "print('renamed to alexnet-continued.previous.pt.' in printed)\n"
            "kept = Path('saved_data/alexnet-continued.previous.pt').read_bytes() == of_others\n"
            "saved = load_checkpoint('saved_data/alexnet-continued.pt', *new_run())\n"
            "print(kept, saved == history)\n"
            f"{BACK}"
            "NUM_EPOCHS = 3\n"
            '_ = injected.run("load-checkpoint")',
            "Notebook 4 ran with RANDOM_SEED = 123: set it here too.\nTrue\nTrue\nTrue True\n",
        ),
    ],
}
