"""Exit with one line if this Python can't make the project's environment. Runs on any Python."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "This course needs Python 3.11 or newer, but '%s' is %d.%d. Install a newer one and "
        "name it: make PYTHON=python3.12 run"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit(
        "'%s' has no venv module. On Debian and Ubuntu, 'apt install python3-venv' adds it."
        % sys.executable
    )
