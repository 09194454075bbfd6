"""Give tests and notebook kernels the arithmetic that the committed outputs were made with."""

import os

from tools.run_notebooks import PINNED_ARITHMETIC

os.environ.update(PINNED_ARITHMETIC)
