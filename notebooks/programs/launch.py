"""What the notebooks about many processes use to start them, and to show a part of a file."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from IPython.display import Markdown


@dataclass
class Result:
    """How a command ended."""

    status: int  # its exit status, 0 if all went well
    printed: str  # its standard output
    errors: str  # its standard error


def launch(command: str) -> Result:
    """Run a command that begins with torchrun or python, and print what its processes print.

    Of its errors, only the last line of the traceback is printed, and which rank was killed.
    """
    program, *arguments = shlex.split(command)
    start = {"torchrun": ["-m", "torch.distributed.run"], "python": []}[program]
    # A thread for each process: several of them would wait for each other on few cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *start, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                printed.append(line)
            status = process.wait()
        finally:
            process.terminate()  # the stop button ends torchrun, and torchrun its processes
            process.wait()
        file.seek(0)
        errors = file.read()
    if status != 0:
        explain(errors)
    return Result(status, "".join(printed), errors)


def explain(errors: str) -> None:
    """Print what standard error says, without its times, paths and process numbers."""
    for rank in sorted(set(re.findall(r"rank +: (\d+) .*\n.*\(SIGKILL\)", errors))):
        print(f"Rank {rank} was killed.")
    failures = read_failures(errors)
    # A rank that fails takes others with it: they only say that they have lost a connection.
    causes = [message for _, message in failures if "gloo" not in message]
    if causes:
        print(causes[-1])
    elif failures:
        print(f"Rank {failures[-1][0]}: the connection to another rank is gone.")
    elif "EADDRINUSE" in errors:
        print("The port is taken, perhaps by another torchrun. --standalone takes a free one.")
    elif usage := re.search(r"error: (.*)", errors):
        print(usage[1])


def read_failures(errors: str) -> list[tuple[str, str]]:
    """Return the rank and the last line of each traceback in torchrun's report, its cause last."""
    found = re.findall(
        r"^  rank +: (\d+) .*\n(?:  .*\n)*?  traceback : (Traceback.*(?:\n  .*)*)", errors, re.M
    )
    return [(rank, traceback.strip().rpartition("\n")[2].strip()) for rank, traceback in found]


def source(file: str, *names: str) -> Markdown:
    """Return a file, or some functions and classes of it, to be shown under a cell."""
    text = Path(file).read_text(encoding="utf-8")
    if names:
        nodes = {getattr(node, "name", None): node for node in ast.parse(text).body}
        text = "\n\n\n".join(ast.get_source_segment(text, nodes[name]) for name in names)
    language = "python" if file.endswith(".py") else "bash"
    return Markdown(f"```{language}\n{text.strip()}\n```")
