"""Right and wrong answers to the exercises, a file for each notebook."""

import collections

from tests.answers import (
    notebook_1,
    notebook_2,
    notebook_3,
    notebook_4,
    notebook_5,
    notebook_6,
    notebook_7,
    notebook_8,
)
from tests.answers.notebooks_9_10 import WRONG_ABOUT_MANY

BOOKS = (
    notebook_1,
    notebook_2,
    notebook_3,
    notebook_4,
    notebook_5,
    notebook_6,
    notebook_7,
    notebook_8,
)
RIGHT = {name: answers for book in BOOKS for name, answers in book.RIGHT.items()}
WRONG = collections.ChainMap(WRONG_ABOUT_MANY, *[book.WRONG for book in BOOKS])
