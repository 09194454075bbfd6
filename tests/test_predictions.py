"""Predictions: one for each question in the notebooks, true to the outputs, kept in the kernel."""

import contextlib
import re
from collections import Counter

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from exercises.predictions import Predictions, read_questions
from tools.course import list_lessons

ASKS = "**What do you expect?**"
QUESTIONS = read_questions()
LESSONS = {lesson.number: lesson.path for lesson in list_lessons() if lesson.number <= 10}
CELLS = {number: nbformat.read(path, as_version=4).cells for number, path in LESSONS.items()}

# What the committed output of a cell says, for the answers that it shows in so many words.
SHOWN = {
    "1-batch": ("data", r"Features: torch\.Size\(\[\d+, 1, 32, 32\]\)"),
    "1-optimizer": ("optimizer-new", r"^\{\}$"),
    "1-loss": ("plot-loss", r"^Loss from 2\.3 in the first batch"),
    "1-files": (
        "save",
        r"^model\.pt +(\S+) bytes\noptimizer\.pt +\1 bytes\nscheduler\.pt +\d,\d+ ",
    ),
    "2-untrained": ("untrained", r": (\d|1\d)\.\d+%$"),
    "2-stop": ("stop", r"and 16 of 31 batches: the run is saved"),
    "2-losses": ("overlay", r"resumed after epoch 2: (\d+) of \1 (?s:.)*: 0 of \d+ losses differ"),
    "3-pieces": ("worth-table", r"^no momentum +1 "),
    "3-looking": ("looking", r"not looked: +(\[.*\])\nlooked: +(?!\1)\["),
    "3-other-model": ("other-model", r"No error\. The model has changed: False"),
    "3-swapped": ("another-order-load", r"encoder: False\n.*decoder: True"),
    "3-shared": ("view", r"kept +changed\n.* as before\n.* as before\n.* changed"),
    "3-strict": ("strict", r"10 missing, 10 unexpected"),
    "3-mode": ("mode", r"The same prediction: False"),
    "3-overwrite": ("overwrite", r"nothing that can be loaded\n.*the checkpoint after 6 epochs"),
    "3-flip": ("flip", r"no complaint\n.*is damaged\nload_checkpoint: .*is damaged"),
    "3-attack": ("attack", r"False\nweights_only=True: .*False\nweights_only=False: .*True"),
    "3-killed": ("started-again", r"Begins after 3 epochs and 19 of 31 batches"),  # killed in 21
    "4-layers": ("layers", r"classifier\.1 +151\.0 MB"),
    "4-twice": ("describe", r"model .*228,179,240\n.*456,358,544"),  # 64 more than twice
    "4-half": ("half", r"Different labels for \d of 500"),
    "5-memory": (
        "measure",
        r"way +2\.0 .*\nmmap=True +(1\.[5-9]|2\.\d) .*\ndevice.* 1\.0 .*\nmmap.* 1\.0 x$",
    ),
    "5-mapped": ("mapped", r"1\.0\nOverwritten in place: 2\.0\nReplaced: +2\.0"),
    "5-dropout": ("dropout", r"training .*: False\n.*evaluation .*: True"),
    "5-extra": ("proof", r"✓ model and optimizer are equal"),
    "5-state": ("over-state", r"✓ state_dict"),
    "5-safetensors": ("over-safe-not", r"(✓ .* is refused: \w+\s*){3}"),
    "5-export": ("over-export-receiver", r"✓ three images"),
    "5-renamed": ("over-pickle", r"AttributeError"),
    "6-no-file": ("proof-stops", r"beginning at step 0\n✓ stopped in step 3 "),
    "6-kills": ("audit", r"after step 7 +7 +5 +2 (?s:.)*after step 20 +20 +15 +5 "),
    "6-horizon": ("horizon", r"twice as many epochs: 96(?s:.)*after loading: +48"),
    "6-accumulate": ("accumulate", r"✓ after whole groups .* and only there"),
    "6-bfloat16": ("bfloat16", r"model: torch\.float32 torch\.int64\n✓"),
    "6-scale": ("float16-cut", r"cut: \d{1,3},\d{3}$"),  # of 16,777,216
    "6-averaged": ("averaged-cut", r"✓ with both models(?s:.)*the average: the same run: False"),
    "6-workers": ("workers-cut", r"✓ two workers, stopped, continued without"),
    "6-compile": ("compile", r"compiled\.state_dict\(\): _orig_mod\.hidden\.0\.weight"),
    "6-programs": ("compile-sizes", r"None: 9 .*\[9, 'any'\]\n.*None: 5 .*\[5, 'any'\]"),
    "7-momentum": ("weights-only", r"^ +4 +same +same +same\n +5 +different"),
    "7-restored": ("audit", r"after step 20 +20 +18 .*✗ of 0"),
    "7-flip": ("lie", r"With a flipped bit: \(4, 'weights', \['3\.weight'\]\)"),
    "7-tools": ("others", r"\A(?!(?s:.)*✗ (\w+, )*(weights|optim|learn))(?s:.)*✗ batch"),
    "8-signals": ("signals", r"step 0\n.*\n.* 18\n.*\n.* 25\nstatus 143\n.* 33\nstatus 0"),
    "8-shell": ("one-ask", r"received nothing\nexec .* received SIGTERM"),
    "8-loop": ("loop-stuck", r"^(status 1, 0 steps saved\n){2}given up"),
    "8-lost": ("simulate-figure", r"Saving every 20 saves loses (9|10)\.\d%"),
    "8-machines": ("machines", r" 1,025\.\d min (?s:.)* 102\.\d min "),
    "8-keep": ("keep-try", r"away-keep\.pt': 500, .*\.1': 400, .*\.best': 200\}"),
    "8-full": (
        "full",
        r"^left over: \S+\.tmp\n✓ the save failed, and every checkpoint is as before",
    ),
    "8-log": ("log-try", r"\| 6 \S+ \| 7 \S+ \| 8 0\.006 \S+ \| 7 \S+ \| 8 "),
    "9-ddp": ("ddp", r"^digits.* False\nloss.* False\nweights.* True\ngrad.* True\nmom.* True$"),
    "9-sums": ("mistake", r"^Rank 1\n +step 1: gradient 21$"),
    "9-shard": ("look", r" 123,412 bytes on this rank(?s:.)* 123,412 bytes on this rank"),
    "9-pieces": ("large", r"^layer_by_layer +A A A\nmeta_and_reset +A B C\n✓"),
    "9-buffer": ("buffers", r": False .* sum nan\n.*: True .* sum -?\d(?s:.)*✓"),
    "9-layers": (
        "split",  # the first loss of each network, on 1 and on 2 ranks
        r"^ +1 +(\S+) to \S+ +(\S+) to \S+ +(\S+) to .*\n"
        r" +2 +\1 to \S+ +(?!\2)\S+ to \S+ +(?!\3)\S",
    ),
    "9-rows": ("rows-figure", r" 6 rows are cut into 2, 2, 2; .* 10 rows .* into 3, 3, 3, 1\."),
    "9-stop": ("stop", r"^Stopped after 2 epochs and 10 of 31 batches,"),
    "9-flip": ("flip-check", r"^✓ what was loaded is the same run, earlier"),
    "10-killed": ("kill-lost", r"^Of 25 steps, (1[6-9]|2[0-4]) are in the newest checkpoint"),
    "10-ranks": ("difference", r"^one .* (?!0e)\S+ at most\nfour .* (?!0e)\S+ at most$"),
    "10-background": ("background", r"^✓ it holds the run as it was when it was saved"),
    "10-last": ("background-kill", r"^Rank 0: the save failed\n✓ the checkpoint before"),
    "10-torn": ("torn", r"^5 of 10 .* before the step\n5 of 10 .* after the step\n✗"),
}


def asked_in(cell):
    """Return the name of the question that a cell asks, or None."""
    found = re.fullmatch(r'expect\("([\w-]+)"\)', cell.source) if cell.cell_type == "code" else None
    return found and found[1]


def place_of(question):
    """Return the cells of a question's notebook, and the index of the one that asks it."""
    cells = CELLS[int(question.notebook)]
    return cells, [asked_in(cell) for cell in cells].index(question.name)


def printed(cell):
    parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "\n".join(parts).strip()


each_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda q: q.name)


@pytest.mark.parametrize("number", LESSONS)
def test_every_question_is_followed_by_its_choices(number):
    cells = CELLS[number]
    asking = [cell.source.count(ASKS) for cell in cells if cell.cell_type == "markdown"]
    assert set(asking) == {0, 1}
    for cell, after in zip(cells, cells[1:], strict=False):
        assert (ASKS in cell.source) == bool(asked_in(after)), cell.id
    names = [asked_in(cell) for cell in cells if asked_in(cell)]
    assert names == [name for name in QUESTIONS if name.startswith(f"{number}-")]  # in their order
    (end,) = [
        i for i, cell in enumerate(cells) if cell.source == f"summarize_predictions({number})"
    ]
    assert cells[end + 1].id == "exercises-md"


@each_question
def test_a_question_is_well_formed(question):
    assert 2 <= len(question.choices) <= 4
    assert len({choice.lower() for choice in question.choices}) == len(question.choices)
    assert question.right in question.letters
    assert all(len(choice) <= 70 and not choice.endswith(".") for choice in question.choices)
    assert re.fullmatch(r"[^!?]+[^.]\.", question.why)
    assert not re.search(r"\. [A-Z]", question.why)
    assert len(question.why.split()) <= 30


@each_question
def test_the_section_is_the_one_that_asks(question):
    cells, place = place_of(question)
    text = "\n".join(cell.source for cell in cells[:place] if cell.cell_type == "markdown")
    heading = re.findall(r"^##+ (.*)", text, re.M)[-1].replace("`", "")
    assert re.sub(r" ★| \(you can skip this\)", "", heading) == question.section


@each_question
def test_the_verdict_comes_after_the_cell_that_shows_the_answer(question):
    cells, place = place_of(question)
    if question.at_once:
        assert not question.shown_by
        assert cells[place + 1].cell_type == "markdown"
    elif question.shown_by:
        code = [cell for cell in cells if cell.cell_type == "code"]
        (shows,) = [cell for cell in code if question.shown_by in cell.source]
        assert cells.index(shows) > place
        next_code = next(cell for cell in cells[place + 1 :] if cell.cell_type == "code")
        assert shows.id != next_code.id  # or it needs no `shown_by`
        verdict_in = shows.id
    else:
        verdict_in = cells[place + 1].id
        assert cells[place + 1].cell_type == "code"
    if question.name in SHOWN:
        assert SHOWN[question.name][0] == verdict_in or question.name in TWO_CELLS


# These are shown by a cell, and the verdict comes after the one that follows it.
TWO_CELLS = {"4-twice"}


@pytest.mark.parametrize("name", SHOWN)
def test_the_committed_output_shows_the_answer(name):
    cell_id, pattern = SHOWN[name]
    (cell,) = [cell for cell in CELLS[int(QUESTIONS[name].notebook)] if cell.id == cell_id]
    if not cell.outputs:
        pytest.skip("this notebook has not been run yet")
    assert re.search(pattern, printed(cell), re.M)


def test_no_letter_is_a_good_guess():
    right = Counter(question.right for question in QUESTIONS.values())
    assert max(right.values()) <= 0.4 * len(QUESTIONS)
    assert min(right[letter] for letter in "ABC") >= 0.25 * len(QUESTIONS)
    for number in LESSONS:
        letters = [q.right for q in QUESTIONS.values() if q.notebook == str(number)]
        assert max(Counter(letters).values()) <= len(letters) / 2
    longest = [max(q.choices, key=len) == q.choice(q.right) for q in QUESTIONS.values()]
    assert sum(longest) <= 0.5 * len(QUESTIONS)


@each_question
def test_the_committed_choices_are_those_of_today(question):
    cells, place = place_of(question)
    if not cells[place].outputs:
        pytest.skip("this notebook has not been run yet")
    assert printed(cells[place]) == Predictions(QUESTIONS).ask(question.name)


class Unprintable:
    __hash__ = None

    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("2-stp", "A", 'There is no question "2-stp". Did you mean "2-stop"?'),
        ("", None, 'There is no question "". One of them is "1-batch".'),
        ("x\n" * 100, None, "There is no question"),
        (None, None, 'Name a question in quotes, as in expect("1-batch").'),
        (2, "B", "Name a question in quotes"),
        ({"2-stop": "B"}, "B", "Name a question in quotes"),
        (Unprintable(), "B", "Name a question in quotes"),
        ("2-stop", "D", 'Answer with A, B or C, as in expect("2-stop", "A").'),
        ("2-stop", "...", "Answer with A, B or C"),
        ("2-stop", "", "Answer with A, B or C"),
        ("2-stop", "AB", "Answer with A, B or C"),
        ("2-stop", 2, "Answer with A, B or C"),
        ("2-stop", ["B"], "Answer with A, B or C"),
        ("2-stop", Unprintable(), "Answer with A, B or C"),
    ],
)
def test_what_is_no_answer_gets_one_line(name, answer, says):
    predictions = Predictions(QUESTIONS)
    text = predictions.ask(name, answer)
    assert text.startswith(says)
    assert "\n" not in text
    assert not predictions.answers


@pytest.mark.parametrize("answer", ["B", "b", " b ", "B)", "b.", "B\n"])
def test_an_answer_may_be_written_in_several_ways(answer):
    predictions = Predictions(QUESTIONS)
    text = predictions.ask(" 2-STOP ", answer)
    assert text == "Noted: B) the batch. Now run the next cell."
    assert predictions.answers == {"2-stop": "B"}


def test_without_ipython_the_verdict_comes_with_the_next_question():
    predictions = Predictions(QUESTIONS)
    predictions.ask("2-hash", "C")
    first, *choices, hint = predictions.ask("2-stop").splitlines()
    assert first.startswith("2-hash: you said C, and that's right. ")
    assert choices == ["A) nothing", "B) the batch", "C) the epoch"]
    assert hint == 'Add your letter and run this cell again: expect("2-stop", "...")'
    assert predictions.ask("2-hash", "C") == first
    assert predictions.ask("2-hash", "A").startswith("Your first answer counts: C) ")


def test_the_answer_comes_at_once_when_only_text_gives_it():
    text = Predictions(QUESTIONS).ask("1-power", "A")
    assert text.startswith("1-power: you said A; the answer is C, ")


def test_the_summary_is_one_line():
    predictions = Predictions(QUESTIONS)
    assert predictions.summarize(2) == predictions.summarize("2")
    assert predictions.summarize(2).startswith("You made no predictions in notebook 2. ")
    predictions.ask("2-stop", "A")
    predictions.ask("3-order", "A")  # wrong, but not in this notebook
    questions_left = "4 questions without an answer"
    assert predictions.summarize(2) == f"Notebook 2: 1 of 1 predictions right, {questions_left}."
    for name in ["2-hash", "2-refuses", "2-untrained"]:
        predictions.ask(name, "B")
    assert predictions.summarize(2) == (
        "Notebook 2: 2 of 4 predictions right, 1 question without an answer. "
        'Read again: "Loading three files", "Loading one file".'
    )
    for wrong in [None, 99, "two", [2], Unprintable()]:
        assert predictions.summarize(wrong).startswith("Give the number of a notebook")


@contextlib.contextmanager
def open_notebook(path):
    """Yield a function that runs a cell of a notebook, or other lines, and returns what is printed.

    The kernel starts in the notebook's folder. An error in a cell is raised as nbclient's
    CellExecutionError.
    """
    notebook = nbformat.read(path, as_version=4)
    sources = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
    client = NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--log-level=ERROR"],
    )

    def run(cell_or_lines):
        cell = nbformat.v4.new_code_cell(sources.get(cell_or_lines, cell_or_lines))
        notebook.cells.append(cell)
        client.execute_cell(cell, len(notebook.cells) - 1)
        return "".join(output.get("text", "") for output in cell.outputs)

    with client.setup_kernel():
        yield run


@pytest.mark.slow
def test_a_notebook_keeps_the_predictions_of_its_kernel(course):
    """Right, wrong, twice and not at all, in notebook 1 as it is."""
    with open_notebook(course / LESSONS[1].name) as run:
        run("path")
        run("settings")
        files = {*course.parent.rglob("*")}
        assert run("expect-summary").startswith("You made no predictions in notebook 1.")
        assert run("expect-batch").startswith("A) two: ")
        assert run('expect("1-batch", "c")').startswith("Noted: C) four: ")
        assert run('expect("1-batch", "C")') == "Noted: C) four: image, channel, height, width.\n"
        shown = run("data").splitlines()
        assert shown[-1].startswith("1-batch: you said C, and that's right. ")
        assert shown[:-1] == run("data").splitlines()  # it comes once
        assert run('expect("1-batch", "A")').startswith("Your first answer counts: C) four: ")

        run('expect("1-optimizer", "B")')
        with pytest.raises(CellExecutionError):
            run("1 / 0")  # shows nothing
        assert run("'the next cell'") == (
            '1-optimizer: you said B; the answer is A, "smaller". '
            "It is empty, because momentum comes from earlier steps, and there haven't been any.\n"
        )
        run('expect("1-confusion", "A")')
        assert run("'a cell in between'") == ""
        assert run("'plot_confusion_matrix(compute'").startswith("1-confusion: you said A, and ")
        assert run("expect-summary") == (
            "Notebook 1: 2 of 3 predictions right, 3 questions without an answer. "
            'Read again: "What trains the model".\n'
        )
        assert {*course.parent.rglob("*")} == files  # so a new kernel knows nothing of them
