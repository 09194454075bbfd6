"""Right and wrong answers to the exercises, a file for each notebook."""

from tests.answers import (
    notebook_1,
    notebook_2,
    notebook_3,
    notebook_4,
    notebook_5,
    notebook_6,
    notebook_7,
    notebook_8,
    notebook_9,
    notebook_10,
)

BOOKS = (
    notebook_1,
    notebook_2,
    notebook_3,
    notebook_4,
    notebook_5,
    notebook_6,
    notebook_7,
    notebook_8,
    notebook_9,
    notebook_10,
)
RIGHT = {name: answers for book in BOOKS for name, answers in book.RIGHT.items()}
WRONG = {name: answers for book in BOOKS for name, answers in book.WRONG.items()}
