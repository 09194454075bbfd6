"""The claims of tests/support/claims.py are in the notebooks, and true of the committed outputs."""

import re

import nbformat
import pytest

from tests.support.claims import CLAIMS, is_true, outputs_of
from tools.course import list_lessons

NOTEBOOKS = {lesson.number: nbformat.read(lesson.path, as_version=4) for lesson in list_lessons()}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook} {claim.words}")
def test_a_claim_is_in_its_cell_and_true_of_the_committed_outputs(claim):
    (text,) = [c.source for c in NOTEBOOKS[claim.notebook].cells if c.id == claim.cell]
    assert claim.words in text
    out = outputs_of(NOTEBOOKS)
    assert is_true(claim, out)
    assert not is_true(claim, dict.fromkeys(out, ""))


def changes(text):
    """Yield texts of the same form with a different number or a different word."""
    for number in re.finditer(r"\d+(\.\d+)?", text):
        yield f"{text[: number.start()]}9{number[0]}{text[number.end() :]}"
        small = "0.1" if number[1] else "0"
        yield f"{text[: number.start()]}{small}{text[number.end() :]}"
    for word, other in [
        ("False", "True"),
        ("none", "5"),
        ("None", "error"),
        ("{}", "{0: 1}"),
        ("[]", "[1]"),
        ("changed", "as before"),
        ("same", "different"),
        ("A A A", "A A B"),
        ("argparse", "pandas"),
        ("nothing", "everything"),
        ("✗", "✓"),
    ]:
        yield text.replace(word, other)
    yield re.sub(r"[0-9a-f]{64}", "0" * 64, text)
    for listed in ("[1, 2]", "[]"):
        yield re.sub(r"\[[\d, ]+\]", listed, text)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook} {claim.words}")
def test_a_claim_turns_false_when_another_number_is_printed(claim):
    out = outputs_of(NOTEBOOKS)
    cells = [cell for cell in out if cell[0] == claim.notebook]
    assert any(
        not is_true(claim, {**out, cell: text}) for cell in cells for text in changes(out[cell])
    )
