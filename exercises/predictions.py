"""Predictions that are kept: `expect("2-stop")` asks, `expect("2-stop", "B")` notes an answer.

The verdict comes after the cell that shows it. The first answer to a question counts; nothing is
written to disk or sent anywhere, so a restart of the kernel forgets them all. The questions, with
their right answers, are in questions.toml.
"""

import difflib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

QUESTIONS_FILE = Path(__file__).with_name("questions.toml")


@dataclass(frozen=True)
class Question:
    """What a notebook asks before an experiment."""

    name: str  # number of the notebook and a short name: 2-stop
    section: str  # the heading to read again
    choices: list[str]
    right: str  # a letter
    why: str  # one sentence
    asks: str = ""  # the part of a longer question that the choices are about
    shown_by: str = ""  # a piece of the cell that shows the answer; empty if the next one does
    at_once: bool = False  # no cell shows the answer: the text below the question gives it

    @property
    def notebook(self) -> str:
        return self.name.partition("-")[0]

    @property
    def letters(self) -> str:
        return "ABCD"[: len(self.choices)]

    def choice(self, letter: str) -> str:
        return self.choices[self.letters.index(letter)]

    def is_shown_by(self, code: str, asked: bool) -> bool:
        """Return whether a cell shows the answer; `asked` is whether the cell called `expect`."""
        return self.shown_by in code if self.shown_by else not asked

    def verdict(self, answer: str) -> str:
        if answer == self.right:
            return f"{self.name}: you said {answer}, and that's right. {self.why}"
        right = f'the answer is {self.right}, "{self.choice(self.right)}"'
        return f"{self.name}: you said {answer}; {right}. {self.why}"


def read_questions() -> dict[str, Question]:
    """Return the questions of all notebooks by their names."""
    tables = tomllib.loads(QUESTIONS_FILE.read_text(encoding="utf-8"))
    return {name: Question(name, **table) for name, table in tables.items()}


class Predictions:
    """The answers that were given since the kernel started."""

    def __init__(self, questions: dict[str, Question]):
        self.questions = questions
        self.answers = {}  # letters by the names of the questions
        self.waiting = []  # the names of answered questions without a verdict yet
        self.asked = False  # whether the current cell has called `expect`
        self.shell = None  # IPython's, once it calls `after_cell`

    def ask(self, name, answer=None) -> str:
        """Return what to print for a question and, if there is one, its answer."""
        self.asked = True
        # Without IPython, nothing calls `after_cell`.
        late = [] if self.shell else self.verdicts(self.waiting)
        return "\n".join([*late, self.reply(name, answer)])

    def reply(self, name, answer) -> str:
        question = self.questions.get(name.strip().lower()) if isinstance(name, str) else None
        if question is None:
            return self.no_such_question(name)
        before = self.answers.get(question.name)
        if before is None and answer is None:
            return ask_for_letter(question)
        letter = before if answer is None else as_letter(answer)
        if letter not in question.letters:
            letters = ", ".join(question.letters[:-1])
            example = f'expect("{question.name}", "{question.letters[0]}")'
            return f"Answer with {letters} or {question.letters[-1]}, as in {example}."
        if before is None:
            return self.note(question, letter)
        if letter != before:
            return f"Your first answer counts: {before}) {question.choice(before)}."
        if question.name in self.waiting:
            return f"Noted: {before}) {question.choice(before)}."
        return question.verdict(before)

    def no_such_question(self, name) -> str:
        example = next(iter(self.questions))
        if not isinstance(name, str):
            return f'Name a question in quotes, as in expect("{example}").'
        similar = difflib.get_close_matches(name.strip().lower(), self.questions, n=1)
        hint = f'Did you mean "{similar[0]}"?' if similar else f'One of them is "{example}".'
        return f'There is no question "{" ".join(name.split())[:40]}". {hint}'

    def note(self, question: Question, letter: str) -> str:
        """Keep a first answer, and return what to print."""
        self.answers[question.name] = letter
        if question.at_once:
            return question.verdict(letter)
        self.waiting.append(question.name)
        self.listen()
        cells = "cells" if question.shown_by else "cell"
        return f"Noted: {letter}) {question.choice(letter)}. Now run the next {cells}."

    def listen(self):
        """From now on, let IPython call `after_cell`; does nothing in plain Python."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if shell is not None and self.shell is None:
            self.shell = shell
            shell.events.register("post_run_cell", self.after_cell)

    def after_cell(self, result):
        """Print the verdicts that a cell has shown. A cell that fails shows nothing."""
        asked, self.asked = self.asked, False
        if not result.success or not result.info.store_history:  # or it isn't a cell at all
            return
        code = result.info.raw_cell
        shown = [name for name in self.waiting if self.questions[name].is_shown_by(code, asked)]
        for verdict in self.verdicts(shown):
            print(verdict)

    def verdicts(self, names) -> list[str]:
        """Return the verdicts on these answers, which no longer wait for one."""
        self.waiting = [name for name in self.waiting if name not in names]
        return [self.questions[name].verdict(self.answers[name]) for name in names]

    def summarize(self, notebook) -> str:
        """Return a line about the answers to the questions of a notebook."""
        self.asked = True  # this cell shows nothing
        number = str(notebook) if isinstance(notebook, int | str) else ""
        questions = [each for each in self.questions.values() if each.notebook == number]
        answered = [each for each in questions if each.name in self.answers]
        if not questions:
            return "Give the number of a notebook with questions, as in summarize_predictions(2)."
        if not answered:
            return (
                f"You made no predictions in notebook {number}. "
                "Next time, add your letter to the cells with expect."
            )
        wrong = [each for each in answered if self.answers[each.name] != each.right]
        line = (
            f"Notebook {number}: {len(answered) - len(wrong)} of {len(answered)} predictions right"
        )
        if left := len(questions) - len(answered):
            line += f", {left} {'question' if left == 1 else 'questions'} without an answer"
        sections = dict.fromkeys(f'"{each.section}"' for each in wrong)  # each once, in order
        return f"{line}. Read again: {', '.join(sections)}." if wrong else f"{line}."


def as_letter(answer) -> str:
    """Return an answer such as " b" or "B)" as "B", and anything that isn't one as "?"."""
    letter = answer.strip(" \t\n.:()").upper() if isinstance(answer, str) else ""
    return letter if len(letter) == 1 else "?"


def ask_for_letter(question: Question) -> str:
    choices = [f"{letter}) {question.choice(letter)}" for letter in question.letters]
    hint = f'Add your letter and run this cell again: expect("{question.name}", "...")'
    return "\n".join([*([question.asks] if question.asks else []), *choices, hint])


PREDICTIONS = Predictions(read_questions())


def expect(question=None, answer=None):
    """Print the choices of a question, or note your answer to it, a letter.

    Whether it's right is printed below the cell that shows it. No other cell needs your answer.
    """
    print(PREDICTIONS.ask(question, answer))


def summarize_predictions(notebook=None):
    """Print how many predictions in a notebook were right, and which sections to read again."""
    print(PREDICTIONS.summarize(notebook))
