"""The claims of tests/claims.py stand in the notebooks, and are true of the committed outputs."""

import re

import nbformat
import pytest

from tests.claims import CLAIMS, is_true, outputs_of
from tools.course import ROOT

NOTEBOOKS = {
    int(path.name[0]): nbformat.read(path, as_version=4)
    for path in sorted((ROOT / "notebooks").glob("[0-9]-*.ipynb"))
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook} {claim.words}")
def test_a_claim_stands_in_its_cell_and_is_true_of_the_committed_outputs(claim):
    (text,) = [c.source for c in NOTEBOOKS[claim.notebook].cells if c.id == claim.cell]
    assert claim.words in text
    out = outputs_of(NOTEBOOKS)
    assert is_true(claim, out)
    assert not is_true(claim, dict.fromkeys(out, ""))


def without_digits(digit):
    return lambda text: re.sub(r"\d", digit, text)


CHANGES = [
    *map(without_digits, "0279"),
    lambda text: text.replace("False", "True"),
    lambda text: text.replace("none", "5"),
    lambda text: text.replace("None", "error"),
    lambda text: text.replace("[]", "[1]"),
    lambda text: re.sub(r"\[[\d, ]+\]", "[1, 2]", text),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.notebook} {claim.words}")
def test_a_claim_turns_false_when_another_number_is_printed(claim):
    """One cell prints something else, of the same form."""
    out = outputs_of(NOTEBOOKS)
    cells = [cell for cell in out if cell[0] == claim.notebook]
    assert any(
        not is_true(claim, {**out, cell: change(out[cell])}) for cell in cells for change in CHANGES
    )
