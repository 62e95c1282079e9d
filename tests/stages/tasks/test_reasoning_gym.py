"""The tasks `reasoning_gym/NAME`."""

import ast
import inspect
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.stages.tasks import Problem, Task, open_task
from apportion.stages.tasks._json_types import from_json
from apportion.stages.tasks._reasoning_gym_repairs import (
    READ_FORMULA,
    READ_LITERAL,
    READ_WHOLE_NUMBERS,
    is_formula,
    whole_number,
)
from apportion.stages.tasks.reasoning_gym import _generators, generator_names

SAMPLE = (
    "ab", "advanced_geometry", "basic_arithmetic", "binary_matrix", "chain_sum", "countdown", "decimal_arithmetic",
    "family_relationships", "isomorphic_strings", "leg_counting", "maze", "n_queens", "polynomial_multiplication",
    "simple_integration", "spiral_matrix", "string_insertion", "tower_of_hanoi", "word_sorting",
)  # fmt: skip
# Their entries hold no answer, or one in the metadata only.
WITHOUT_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
COMPOSITE = {
    "datasets": [
        {"name": "chain_sum", "weight": 1, "config": {}},
        {"name": "countdown", "weight": 1, "config": {"min_numbers": 3}},
    ]
}


def task_of(name: str, **options: Any) -> Task:
    return open_task(f"reasoning_gym/{name}", options or (COMPOSITE if name == "composite" else {}))


@cache
def first(name: str, **options: Any) -> Problem:
    return next(task_of(name, **options).problems("train", 1, 0))


def own_answer(problem: Problem) -> str:
    return f"Let me think.\n<answer>{from_json(problem.reference)['answer']}</answer>"


def test_each_of_the_106_makes_a_problem_and_accepts_its_own_answer() -> None:
    names = generator_names()
    assert len(names) == 106
    scores = {}
    for name in names:
        problem = first(name)
        reference = json.loads(json.dumps(problem.reference))
        assert reference == problem.reference
        assert problem.prompt[0]["content"].strip()
        scores[name] = task_of(name).verify(own_answer(problem), reference)
    assert {name for name, score in scores.items() if score < 1.0} == WITHOUT_ANSWER


@pytest.mark.parametrize("name", SAMPLE)
def test_problems_are_distinct_and_splits_never_overlap(name: str) -> None:
    task = task_of(name)
    train = [problem.prompt[0]["content"] for seed in (0, 1) for problem in task.problems("train", 15, seed)]
    test = [problem.prompt[0]["content"] for seed in (0, 1) for problem in task.problems("test", 5, seed)]
    assert len(set(train[:15])) == 15
    assert len(set(test[:5])) == 5
    assert not set(train) & set(test)


@pytest.mark.parametrize("name", [*SAMPLE, "composite"])
def test_same_seed_same_problems_and_more_of_them_begin_alike(name: str) -> None:
    task = task_of(name)
    ten = list(task.problems("train", 10, 7))
    assert list(task.problems("train", 4, 7)) == ten[:4]
    assert list(task.problems("train", 10, 8)) != ten


@pytest.mark.parametrize("name", [*SAMPLE, "composite"])
def test_answers_score_in_0_to_1_and_the_own_one_scores_1(name: str) -> None:
    task = task_of(name)
    for problem in task.problems("test", 3, 0):
        assert task.verify(own_answer(problem), problem.reference) == 1.0
        for text in ("", "<answer></answer>", "<answer>no idea</answer>", "<answer>[[1</answer>", "\0", "9" * 5000):
            assert 0.0 <= task.verify(text, problem.reference) < 1.0


@pytest.mark.parametrize(
    ("name", "key"), [("graph_color", "possible_answer"), ("propositional_logic", "example_answer"),
                      ("rubiks_cube", "example_correct_answer")],
)  # fmt: skip
def test_an_answer_that_is_only_in_the_metadata_scores_1(name: str, key: str) -> None:
    task = task_of(name)
    problem = first(name)
    answer = from_json(problem.reference)["metadata"][key]
    text = json.dumps(answer) if isinstance(answer, dict) else str(answer)
    assert task.verify(f"<answer>{text}</answer>", problem.reference) == 1.0


def test_a_problem_is_a_question_and_the_instruction() -> None:
    problem = first("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    (message,) = problem.prompt
    question, _, instruction = message["content"].rpartition("\n\n")
    assert message["role"] == "user"
    assert instruction == "Put your final answer, and nothing else, between <answer> and </answer>."
    # "State the final answer to the following arithmetic problem: 5 + 4 ="
    left, operator, right = question.removesuffix("=").rpartition(":")[2].split()
    assert int(problem.reference["answer"]) == int(left) + (int(right) if operator == "+" else -int(right))


def test_the_instruction_is_an_option_and_no_part_of_what_a_problem_is() -> None:
    bare, other = first("chain_sum", instruction=""), first("chain_sum", instruction="Be brief.")
    assert other.prompt[0]["content"] == bare.prompt[0]["content"].rstrip() + "\n\nBe brief."
    assert bare.problem_id == other.problem_id


PROBLEMS_IN_A_NEW_PROCESS = """
import sys
from apportion.stages.tasks import open_task
for name in sys.argv[1:]:
    for problem in open_task(f"reasoning_gym/{name}").problems("train", 10, 3):
        print(problem)
"""


def test_problems_do_not_depend_on_the_hash_seed() -> None:
    def printed(hash_seed: str) -> str:
        command = [
            sys.executable,
            "-c",
            PROBLEMS_IN_A_NEW_PROCESS,
            *SAMPLE,
            "ransom_note",
            "group_anagrams",
            "emoji_mystery",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout

    here = printed("1")
    assert here.count("Problem(problem_id=") == 10 * (len(SAMPLE) + 3)
    assert printed("2") == here


def test_the_global_generators_are_left_alone_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    import numpy

    random.seed(5)
    numpy.random.seed(5)
    expected = random.Random(5).random(), numpy.random.RandomState(5).random()
    for name in ("chain_sum", "maze", "rubiks_cube", "codeio"):
        problem = first(name)
        task_of(name).verify(own_answer(problem), problem.reference)
    assert (random.random(), numpy.random.random()) == expected
    assert capfd.readouterr() == ("", "")


CODE = (
    "open('ran', 'w')",
    "[open('ran', 'w')]",
    "[x for x in [open('ran', 'w')]]",
    "Symbol(open('ran','w'))",
    "__import__('os').system('touch ran')",
    "(lambda: open('ran', 'w'))()",
    "().__class__.__base__.__subclasses__()[0](open('ran', 'w'))",
    "x if open('ran', 'w') else x",
    "x.subs(x, open('ran', 'w'))",
    "f'{open(chr(114)+chr(97)+chr(110), chr(119))}'",
)
ENDLESS = ("9**9**9**9", "1e999999999", "1e-999999999", "1 << 10**12", "(" * 900 + "1" + ")" * 900, "-" * 1500 + "1")
ODD = (10**15, -1, None, [], {}, "", 1e308)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a reference, the first two of each list."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, each in inner:
        yield from leaves(each, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = value.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], by)
    return copy


@pytest.mark.parametrize("name", generator_names())
def test_neither_an_answer_nor_a_reference_is_run(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task, problem = task_of(name), first(name)
    own = own_answer(problem)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("apportion.stages.tasks.reasoning_gym.VERIFY_SECONDS", 2.0)

    def verified(text: str, reference: Any) -> None:
        start = time.process_time()
        try:
            score = task.verify(text, reference)
        except DataError as refused:
            assert "the reference" in str(refused)
        else:
            assert 0.0 <= score <= 1.0
        assert time.process_time() - start < 1.9, (text[:60], str(reference)[:200])
        assert not list(tmp_path.iterdir()), (text[:60], str(reference)[:200])

    for answer in (*CODE, *ENDLESS):
        verified(f"<answer>{answer}</answer>", problem.reference)
    places = list(leaves(problem.reference))
    for number, path in enumerate(places[:60]):
        verified(own, replaced(problem.reference, path, CODE[number % len(CODE)]))
        verified("<answer>1</answer>", replaced(problem.reference, path, CODE[-1 - number % len(CODE)]))
        verified(own, replaced(problem.reference, path, ENDLESS[number % len(ENDLESS)]))
        verified(own, replaced(problem.reference, path, ODD[number % len(ODD)]))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("simple_integration", ("metadata", "integrand")),
        ("simple_integration", ("metadata", "variable")),
        ("intermediate_integration", ("metadata", "integrand")),
        ("polynomial_multiplication", ("answer",)),
    ],
)
def test_a_reference_that_would_be_evaluated_is_refused(name: str, path: tuple[str, ...], tmp_path: Any,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    task, problem = task_of(name), first(name)
    for code in CODE:
        with pytest.raises(DataError, match=f"the reference holds .*, which is not a formula; {name} would execute it"):
            task.verify(own_answer(problem), replaced(problem.reference, path, code))
    assert not list(tmp_path.iterdir())


EVALUATING = {
    "eval",
    "exec",
    "parse_expr",
    "sympify",
    "parse_latex",
    "lambdify",
    "import_module",
    "__import__",
    "system",
    "Popen",
}
OF_THEIR_OWN_MAKING = {
    "basic_arithmetic": "eval",
    "codeio": "exec",
}  # when they make a problem; their verifiers compare
NAMED_ALIKE = {"propositional_logic": "parse_expr"}  # a parser of its own


def test_no_generator_evaluates_but_those_that_were_read() -> None:
    """A newer reasoning-gym may have one more; then it has to be read, and mended, before it is used."""
    found: dict[str, str] = {}
    for name, (dataset_class, _) in _generators().items():
        own = [each.__module__ for each in dataset_class.__mro__ if each.__module__.startswith("reasoning_gym")]
        for node in (node for module in own for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module])))):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if called in EVALUATING:
                found[name] = called
    mended = dict.fromkeys((*READ_LITERAL, *READ_WHOLE_NUMBERS), "eval") | dict.fromkeys(READ_FORMULA, "parse_expr")
    assert found == mended | OF_THEIR_OWN_MAKING | NAMED_ALIKE


def test_the_generator_is_the_tasks_and_never_the_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = "<answer>open('ran', 'w')</answer>"
    reference = replaced(first("countdown").reference, ("metadata", "source_dataset"), "chain_sum")
    assert task_of("countdown").verify(answer, reference) == 0.0
    task = task_of("composite")
    assert task.verify(answer, first("countdown").reference) == 0.0
    for member in ("puzzle24", "composite", ["countdown"], None):
        with pytest.raises(DataError, match="which is not part of reasoning_gym/composite"):
            task.verify(answer, replaced(first("countdown").reference, ("metadata", "source_dataset"), member))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["1 << 10**12", "2**9", "'a'*9", "True", "1.5", "-(-", "[1]", "1 << 65536", *CODE])
def test_no_arithmetic_of_whole_numbers(text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, SyntaxError)):
        whole_number(text)
    assert not list(tmp_path.iterdir())


def test_the_unsolved_integral_is_no_solution() -> None:
    task, problem = task_of("simple_integration"), first("simple_integration")
    metadata = problem.reference["metadata"]
    unsolved = f"Integral({metadata['integrand']}, {metadata['variable']}) + C"
    assert task.verify(f"<answer>{unsolved}</answer>", problem.reference) == 0.0


@pytest.mark.parametrize("answer", ["9**9**9**9", "9**(9**9)", "((9**99)**99)**99", "2**(99*99*99)", "E**E**E**E**99",
                                    "exp(exp(exp(exp(99))))", "(" * 900 + "1" + ")" * 900, "1+" * 5000 + "1"])  # fmt: skip
def test_a_number_too_large_to_compute_is_wrong_at_once(answer: str) -> None:
    task, problem = task_of("countdown"), first("countdown")
    start = time.perf_counter()
    assert task.verify(f"<answer>{answer}</answer>", problem.reference) == 0.0
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "answer", ["x**2/2 + C", "-3*X**3*sin(X) + 18*cos(X) + C", "E**(2*x)", "exp(-x**2)", "x**(3/2)", "7 * (3 - 1) / 2"]
)
def test_formulas_that_are_asked_for_are_formulas(answer: str) -> None:
    assert is_formula(answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_term": 2}, "unknown option of task 'reasoning_gym/chain_sum': 'min_term'; did you mean 'min_terms'"),
        ({"min_terms": "two"}, "option min_terms: input should be a valid integer.*, got 'two'"),
        ({"min_terms": 5, "max_terms": 2}, "max_terms must be >= min_terms"),
        ({"seed": 3}, "'seed' is not an option of a task; use --seed"),
        ({"size": 3}, "'size' is not an option of a task; use --prompts"),
    ],
)
def test_options_out_of_place(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as fault:
        open_task("reasoning_gym/chain_sum", options)
    assert "\n" not in str(fault.value)


def test_composite_needs_its_data_sets() -> None:
    with pytest.raises(UsageError, match="Must specify at least one dataset"):
        open_task("reasoning_gym/composite")


def test_running_out_of_problems_is_a_fault_of_the_options() -> None:
    task = task_of("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    with pytest.raises(UsageError, match="no more train problems after"):
        list(task.problems("train", 1000, 0))


def test_split_misspelt() -> None:
    with pytest.raises(UsageError, match="did you mean 'train'"):
        next(task_of("chain_sum").problems("trian", 1, 0))
