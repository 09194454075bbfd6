"""Begin to write `argv[1]`, fork, and end as `argv[2]` says; the child keeps what it inherited.

The child lives until the standard input is closed.
"""

import os
import signal
import sys

from helper.atomic import atomic_file

path, end = sys.argv[1:]
with atomic_file(path) as file:
    file.write(b"new")
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
