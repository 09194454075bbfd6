"""Right and wrong answers to the exercises of notebook 3, each wrong one with its hint."""

import io
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from helper.atomic import atomic_file
from tests.answers.collect import Answers, load
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · Drop the prefix.

strip_module = Answers("strip_module", RIGHT, WRONG)


@strip_module.right
def with_a_slice(state):
    return {n[len("module.") :] if n[:7] == "module." else n: t for n, t in state.items()}


@strip_module.right
def with_the_function_of_torch(state):
    state = dict(state)
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


@strip_module.right
def first_word_only(state):
    return {n.partition(".")[2] if n.split(".")[0] == "module" else n: t for n, t in state.items()}


@strip_module.wrong("submodule.weight became subweight")
def prefix_replaced_everywhere(state):
    return {name.replace("module.", ""): tensor for name, tensor in state.items()}


@strip_module.wrong("dense.weight became nse.weight")
def letters_stripped(state):
    return {name.lstrip("module."): tensor for name, tensor in state.items()}  # noqa: B005


@strip_module.wrong("names without the prefix have changed too")
def seven_letters_cut(state):
    return {name[7:]: tensor for name, tensor in state.items()}


@strip_module.wrong("names without the prefix have changed too")
def split_at_the_first_dot(state):
    return {name.split(".", 1)[1]: tensor for name, tensor in state.items()}


@strip_module.wrong("the names, or the tensors, are not those of model.weight")
def the_last_part_only(state):
    return {name.split(".")[-1]: tensor for name, tensor in state.items()}


@strip_module.wrong("the names still begin with `module.`.")
def the_same(state):
    return dict(state)


@strip_module.wrong("the answer is of type list, not a state_dict")
def names_only(state):
    return [name.removeprefix("module.") for name in state]


@strip_module.wrong("your function changes the dict that it was given")
def stripped_in_place(state):
    for name in list(state):
        state[name.removeprefix("module.")] = state.pop(name)
    return state


@strip_module.wrong("when only some names have the prefix")
def looks_at_the_first_name(state):
    if next(iter(state)).startswith("module."):
        return {name[7:]: tensor for name, tensor in state.items()}
    return dict(state)


@strip_module.wrong("names without the prefix have changed too")
def any_first_word(state):
    words = ("module", "module2")
    return {n.partition(".")[2] if n.partition(".")[0] in words else n: t for n, t in state.items()}


@strip_module.wrong("names without the prefix have changed too")
def without_the_dot_of_module(state):
    return {n.removeprefix("module").lstrip("."): tensor for n, tensor in state.items()}


@strip_module.right
def with_copies(state):
    return {name.removeprefix("module."): tensor.clone() for name, tensor in state.items()}


@strip_module.right
def by_an_anchored_pattern(state):
    return {re.sub(r"^module\.", "", name): tensor for name, tensor in state.items()}


@strip_module.wrong("block.module.weight became block.weight")
def by_word(state):
    return {re.sub(r"\bmodule\.", "", name): tensor for name, tensor in state.items()}


@strip_module.wrong("block.module.weight became block.weight")
def by_parts(state):
    return {
        ".".join(part for part in name.split(".") if part != "module"): tensor
        for name, tensor in state.items()
    }


@strip_module.wrong("names without the prefix have changed too")
def the_first_occurrence(state):
    return {name.replace("module.", "", 1): tensor for name, tensor in state.items()}


@strip_module.wrong("names without the prefix have changed too")
def with_a_wild_dot(state):
    return {re.sub("^module.", "", name): tensor for name, tensor in state.items()}


@strip_module.wrong("when only some names have the prefix")
def if_all_have_it(state):
    if all(name.startswith("module.") for name in state):
        return {name[7:]: tensor for name, tensor in state.items()}
    return dict(state)


@strip_module.wrong("return a new dict, even when no name has the prefix")
def the_dict_itself(state):
    if not any(name.startswith("module.") for name in state):
        return state
    return SOLVED["strip_module"](state)


# 2 · Is it what was saved?

is_intact = Answers("is_intact", RIGHT, WRONG)


@is_intact.right
def loaded_before(path):
    try:
        torch.load(path)
        return zipfile.ZipFile(path).testzip() is None
    except Exception:
        return False


@is_intact.right
def every_record_read(path):
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                archive.read(record)
        torch.load(path, mmap=True, weights_only=True)
    except Exception:
        return False
    else:
        return True


@is_intact.wrong("half a file is found, but no checksum compared")
def it_loads(path):
    try:
        load(path)
    except Exception:
        return False
    return True


@is_intact.wrong("a file with a flipped bit was called intact")
def size_is_not_zero(path):
    return os.path.getsize(path) > 0


@is_intact.wrong("a file with a flipped bit was called intact")
def all_are_intact(path):
    return os.path.exists(path)


@is_intact.wrong("for a whole file, return True or False, not a NoneType")
def what_testzip_returns(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile:
        return "damaged"


@is_intact.wrong("half a file is found, but no checksum compared")
def never_calls_testzip(path):
    return zipfile.is_zipfile(path)


@is_intact.wrong("for half a file, your function raises")
def half_a_file_raises(path):
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


@is_intact.wrong("for a flipped bit in byte")
def only_bad_zip_files(path):
    """The solution of old: other errors of a broken list of records are let through."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


@is_intact.wrong("opening it raises")
def only_the_sums(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:
        return False


@is_intact.wrong("a file without its last bytes was called intact")
def large_enough(path):
    """Takes a file for complete if it is large."""
    complete = zipfile.is_zipfile(path) and SOLVED["is_intact"](path)
    return complete or (not zipfile.is_zipfile(path) and os.path.getsize(path) > 1000)


@is_intact.wrong("an empty file was called intact")
def not_if_empty(path):
    return os.path.getsize(path) == 0 or SOLVED["is_intact"](path)


@is_intact.wrong("a whole file was called damaged")
def the_other_way_round(path):
    return not SOLVED["is_intact"](path)


@is_intact.wrong("a whole file was called damaged")
def nothing_is_intact(path):
    return os.path.isdir(path)


@is_intact.right
def that_prints_why(path):
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        print(error)
        return False
    if damaged:
        print("damaged:", damaged)
    return damaged is None


@is_intact.wrong("for a flipped bit, your function deletes the file")
def deletes_what_is_damaged(path):
    intact = SOLVED["is_intact"](path)
    if not intact:
        os.remove(path)
    return intact


@is_intact.wrong("weights_only=False would run code from it")
def runs_code(path):
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        torch.load(path, map_location="cpu", weights_only=False)
    except Exception:
        return False
    return damaged is None


@is_intact.wrong("your function changes the file: it should only look")
def saves_it_again(path):
    intact = SOLVED["is_intact"](path)
    if intact:
        torch.save({**load(path), "checked": True}, path)
    return intact


@is_intact.wrong("for half a file, your function raises")
def raises_the_error(path):
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                return False
    torch.load(path, map_location="cpu", weights_only=True)
    return True


@is_intact.wrong("for a whole file, return True or False, not a dict")
def returns_what_is_in_it(path):
    try:
        return load(path) if zipfile.ZipFile(path).testzip() is None else None
    except Exception:
        return None


# 3 · Never without a checkpoint.

save_atomically = Answers("save_atomically", RIGHT, WRONG)


@save_atomically.right
def with_pathlib(state, path):
    temporary = Path(path).with_suffix(".new")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


@save_atomically.right
def with_tempfile(state, path, replace=os.replace):
    """Has its own name for os.replace, as after `from os import replace`."""
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@save_atomically.right
def with_a_temporary_folder(state, path):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        torch.save(state, os.path.join(folder, "new.pt"))
        os.replace(src=os.path.join(folder, "new.pt"), dst=path)


@save_atomically.right
def with_a_temporary_folder_and_move(state, path):
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        torch.save(state, Path(folder) / "new.pt")
        shutil.move(Path(folder) / "new.pt", path)


@save_atomically.right
def in_memory_first(state, path):
    memory = io.BytesIO()
    torch.save(state, memory)
    Path(path + ".tmp").write_bytes(memory.getvalue())
    os.rename(path + ".tmp", path)


@save_atomically.right
def with_the_helper(state, path):
    with atomic_file(path) as file:
        torch.save(state, file)


@save_atomically.right
def in_a_process(state, path):
    try:
        torch.save(state, path + ".tmp")
        program = "import os, sys; os.replace(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", program, path + ".tmp", path], check=True)
    finally:
        Path(path + ".tmp").unlink(missing_ok=True)


@save_atomically.wrong("written in place: a kill in the middle would leave half a file")
def in_place(state, path):
    torch.save(state, path)


@save_atomically.wrong("written in place: a kill in the middle would leave half a file")
def through_memory(state, path):
    memory = io.BytesIO()
    torch.save(state, memory)
    Path(path).write_bytes(memory.getvalue())


@save_atomically.wrong("written in place: a kill in the middle would leave half a file")
def copied(state, path):
    try:
        torch.save(state, path + ".tmp")
        shutil.copy(path + ".tmp", path)
    finally:
        os.remove(path + ".tmp")


def delete(folder, epochs):
    for epoch in epochs:
        os.remove(os.path.join(folder, f"epoch-{epoch}.pt"))


@save_atomically.wrong("the temporary file is in a different folder")
def in_another_folder(state, path):
    with tempfile.NamedTemporaryFile(delete=False) as file:
        torch.save(state, file)
    os.replace(file.name, path)


@save_atomically.wrong("for a moment there is no checkpoint")
def deleted_first(state, path):
    try:
        torch.save(state, path + ".tmp")
        if os.path.exists(path):
            os.remove(path)
        os.rename(path + ".tmp", path)
    finally:
        if os.path.exists(path + ".tmp"):
            os.remove(path + ".tmp")


@save_atomically.wrong("for a moment there is no checkpoint")
def removed_and_linked(state, path):
    """Never renames anything."""
    torch.save(state, path + ".tmp")
    if os.path.exists(path):
        os.remove(path)
    os.link(path + ".tmp", path)
    os.remove(path + ".tmp")


@save_atomically.wrong("for a moment there is no checkpoint")
def set_aside(state, path):
    try:
        torch.save(state, path + ".tmp")
        if os.path.exists(path):
            os.rename(path, path + ".old")
        os.rename(path + ".tmp", path)
        if os.path.exists(path + ".old"):
            os.remove(path + ".old")
    finally:
        if os.path.exists(path + ".tmp"):
            os.remove(path + ".tmp")


@save_atomically.wrong("the temporary file is in a different folder")
def in_the_working_directory(state, path):
    try:
        torch.save(state, "checkpoint.tmp")
        os.replace("checkpoint.tmp", path)
    finally:
        if os.path.exists("checkpoint.tmp"):
            os.remove("checkpoint.tmp")


@save_atomically.wrong("written in place: a kill in the middle would leave half a file")
def tried_first_and_in_place(state, path):
    torch.save(state, io.BytesIO())
    torch.save(state, path)


@save_atomically.wrong("the temporary file is in a different folder")
def moved_from_elsewhere(state, path):
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, os.path.join(folder, "new.pt"))
        shutil.move(os.path.join(folder, "new.pt"), path)


@save_atomically.wrong("a save failed partway, and the checkpoint before it is gone")
def deleted_when_it_fails(state, path):
    try:
        SOLVED["save_atomically"](state, path)
    except Exception:
        os.remove(path)
        raise


@save_atomically.wrong("the very first save failed partway, and it left half a file")
def first_one_in_place(state, path):
    if os.path.exists(path):
        SOLVED["save_atomically"](state, path)
    else:
        torch.save(state, path)


@save_atomically.wrong("for a moment there is no checkpoint")
def deleted_at_once(state, path):
    if os.path.exists(path):
        os.remove(path)
    SOLVED["save_atomically"](state, path)


@save_atomically.wrong("for a moment there is no checkpoint")
def backed_up(state, path):
    if os.path.exists(path):
        os.replace(path, path + ".old")
    torch.save(state, path)


@save_atomically.wrong("a save failed partway, and its temporary file is left behind")
def temporary_left_after_an_error(state, path):
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


@save_atomically.wrong("a temporary file is left behind next to the checkpoint")
def temporary_left_always(state, path):
    torch.save(state, path + ".tmp")
    shutil.copy(path + ".tmp", path + ".tmp2")
    os.replace(path + ".tmp2", path)


@save_atomically.wrong("your function kept the error to itself")
def error_kept(state, path):
    try:
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)
    except Exception:
        os.remove(path + ".tmp")


@save_atomically.wrong("there is no file at the path")
def another_name(state, path):
    torch.save(state, path + ".pt")


@save_atomically.wrong("the file doesn't hold what torch.save would write for this state")
def something_else(state, path):
    SOLVED["save_atomically"]({"state": state}, path)


@save_atomically.right
def with_a_name_of_the_process(state, path):
    temporary = f"{path}.{os.getpid()}.tmp"
    print("saving to", temporary)
    try:
        torch.save(state, temporary)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    os.replace(temporary, path)


@save_atomically.wrong("a killed process left its temporary file, and now saving fails: every")
def only_a_new_file(state, path):
    try:
        with open(f"{path}.tmp", "xb") as file:
            torch.save(state, file)
        os.replace(f"{path}.tmp", path)
    except FileExistsError:
        raise
    except BaseException:
        os.remove(f"{path}.tmp")
        raise


@save_atomically.wrong("a killed process left its temporary file, and now saving fails, without")
def gives_up_if_there_is_one(state, path):
    if not os.path.exists(f"{path}.tmp"):
        SOLVED["save_atomically"](state, path)


@save_atomically.wrong("the stop button was pressed during a save, and its temporary file is left")
def only_after_an_oserror(state, path):
    try:
        torch.save(state, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)
    except OSError:
        os.remove(f"{path}.tmp")
        raise


@save_atomically.wrong("a save failed partway, and the checkpoint before it is gone")
def replaced_whatever_happened(state, path):
    try:
        torch.save(state, f"{path}.tmp")
    finally:
        os.replace(f"{path}.tmp", path)


@save_atomically.wrong("a temporary file is left behind next to the checkpoint")
def a_link_to_the_newest(state, path):
    name = f"{path}.{secrets.token_hex(4)}"
    torch.save(state, name)
    os.symlink(name, f"{path}.link")
    os.replace(f"{path}.link", path)
