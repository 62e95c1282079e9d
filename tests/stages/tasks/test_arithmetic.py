"""The task `arithmetic`."""

from itertools import product
from random import Random

import pytest
from apportion.formats.errors import UsageError
from apportion.stages.tasks import Problem, open_task
from apportion.stages.tasks.arithmetic import Arithmetic, order_matters, parse

TASK = Arithmetic()


def expressions(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0]["content"] for problem in problems]


def problem_of(expression: str) -> Problem:
    first, terms = parse(expression)
    return Problem("id", [{"role": "user", "content": expression}], first + sum(s * b * c for s, b, c in terms))


class Script(Random):
    """An rng whose tosses are given: 0 is a mistake, 1 is none."""

    def __init__(self, tosses: tuple[int, ...]) -> None:
        super().__init__()
        self.tosses = iter(tosses)

    def random(self) -> float:
        return float(next(self.tosses))


def test_same_seed_same_problems_and_more_of_them_begin_alike() -> None:
    fifty = list(TASK.problems("train", 50, 7))
    assert list(TASK.problems("train", 50, 7)) == fifty
    assert list(TASK.problems("train", 20, 7)) == fifty[:20]
    assert list(TASK.problems("train", 50, 8)) != fifty


def test_problems_are_pinned() -> None:
    # What a seed means must not change between versions: results are quoted by it.
    problem = next(TASK.problems("train", 1, 0))
    assert problem == Problem(
        "arithmetic-04db92b79a272b82", [{"role": "user", "content": "10-2*2+5*2+3*4"}], 10 - 4 + 10 + 12
    )


def test_problems_are_distinct_and_splits_never_overlap() -> None:
    train = [expression for seed in range(3) for expression in expressions(list(TASK.problems("train", 500, seed)))]
    test = [expression for seed in range(3) for expression in expressions(list(TASK.problems("test", 500, seed)))]
    assert len(set(train[:500])) == len(set(test[:500])) == 500
    assert not set(train) & set(test)


def test_problem_id_depends_on_the_expression_alone() -> None:
    ids = {}
    for seed in range(20):
        for problem in Arithmetic(terms=1).problems("train", 50, seed):
            expression = problem.prompt[0]["content"]
            assert ids.setdefault(expression, problem.problem_id) == problem.problem_id
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize("terms", [1, 2, 3, 4])
def test_the_order_always_matters(terms: int) -> None:
    task = Arithmetic(terms=terms)
    for problem in task.problems("test", 30, 0):
        for tosses in product((0, 1), repeat=terms):
            text = task.demonstrate(problem, Script(tosses), mistakes=0.5)
            assert task.verify(text, problem.reference) == float(all(tosses)), (problem, text)
            numbers = [int(number) for number in text.replace("\n", "=").split("=")[1::2]]
            assert all(0 <= number <= task.max_value for number in numbers)


def test_the_reference_is_what_python_makes_of_the_expression() -> None:
    for problem in TASK.problems("train", 100, 0):
        assert problem.reference == eval(problem.prompt[0]["content"])


def test_a_mistake_that_makes_no_difference_is_refused() -> None:
    # Right: 4-4 = 0, 0+6 = 6. The order is wrong at the second product alone: 0+2 = 2, 2*3 = 6, too.
    assert not order_matters(4, parse("4-2*2+2*3")[1], 299)
    # Right: 5-4 = 1, 1+6 = 7. Wrong: (1+2)*3 = 9, (5-2)*2+6 = 12, ((5-2)*2+2)*3 = 24.
    assert order_matters(5, parse("5-2*2+2*3")[1], 299)


def test_every_path_stays_within_bounds() -> None:
    # Of 5-2*2+2*3 the largest number is the 24 of two mistakes; of 2-2*3 the right result is below 0.
    assert order_matters(5, parse("5-2*2+2*3")[1], 24)
    assert not order_matters(5, parse("5-2*2+2*3")[1], 23)
    assert not order_matters(2, parse("2-2*3")[1], 299)


@pytest.mark.parametrize(("mistakes", "reward"), [(0.0, 1.0), (1.0, 0.0)])
def test_demonstrations_without_mistakes_are_right_and_with_mistakes_wrong(mistakes: float, reward: float) -> None:
    for index, problem in enumerate(TASK.problems("train", 200, 3)):
        text = TASK.demonstrate(problem, Random(index), mistakes)
        assert TASK.verify(text, problem.reference) == reward


def test_demonstration_written_out() -> None:
    problem = problem_of("7+2*5-3*4")
    assert TASK.demonstrate(problem, Random(0), 0.0) == "7+10=17\n17-12=5"
    assert TASK.demonstrate(problem, Random(0), 1.0) == "7+2=9\n9*5=45\n45-3=42\n42*4=168"


def test_every_single_step_of_a_demonstration_is_exact() -> None:
    for index, problem in enumerate(TASK.problems("train", 100, 0)):
        for line in TASK.demonstrate(problem, Random(index), 0.5).split("\n"):
            left, right = line.split("=")
            assert eval(left) == int(right)


@pytest.mark.parametrize("text", ["7+10=17\n17-12=5", "5", "=5", "x=5 ", "17-12=5\n", "17-12=5."])
def test_right(text: str) -> None:
    assert TASK.verify(text, 5) == 1.0


@pytest.mark.parametrize(
    "text", ["7+2=9\n9*5=45", "", "=", "5=", "five", "=5 6", "=5=", "=-5", "=5.0", "=٥", "=" + "5" * 5000, "\0", "=\n"]
)
def test_wrong_and_garbage(text: str) -> None:
    assert TASK.verify(text, 5) == 0.0


def test_options() -> None:
    assert open_task("arithmetic") == Arithmetic()
    task = open_task("arithmetic", {"terms": "2", "max_factor": 9})
    assert isinstance(task, Arithmetic)
    assert task.options == {"terms": 2, "max_factor": 9, "max_value": 299}
    assert task.spec == "arithmetic"
    assert all(expression.count("*") == 2 for expression in expressions(list(task.problems("train", 20, 0))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": 2}, "did you mean 'terms'"),
        ({"terms": "two"}, "terms must be a whole number, got 'two'"),
        ({"terms": 0}, "terms must be between 1 and 8, got 0"),
        ({"terms": 2.5}, "terms must be a whole number, got 2.5"),
    ],
)
def test_options_out_of_place(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task("arithmetic", options)


def test_spec_takes_no_suffix() -> None:
    with pytest.raises(UsageError, match="takes nothing after its name"):
        open_task("arithmetic/hard", {})


def test_split_misspelt() -> None:
    with pytest.raises(UsageError, match="did you mean 'train'"):
        next(TASK.problems("trian", 1, 0))


def test_running_out_of_problems_is_a_fault_of_the_options() -> None:
    with pytest.raises(UsageError, match="no more train problems after"):
        list(Arithmetic(terms=1, max_factor=3).problems("train", 10_000, 0))


@pytest.mark.parametrize(
    ("before", "step", "expected"),
    [
        ("", "7+10=17", True),
        ("", " 7+10=17\n", True),
        ("", "7+2=9", False),  # adds first
        ("", "7+10=18", False),
        ("", "17-12=5", False),  # right, but not yet
        ("7+10=17\n", "17-12=5", True),
        ("7+10=17\n", "7+10=17", False),  # once more
        ("7+2=9\n", "9*5=45", False),  # true, and of no use
        ("7+2=9\n", "7+10=17", True),  # takes the mistake back
        ("17-12=5\n7+10=17\n", "17-12=5", True),  # what came too early does not count
        ("7+10=17\n17-12=5\n", "5+0=5", False),  # the solution is there already
        ("", "so, 7+10=17", None),
        ("7+10=17\n", "5", None),
        ("", "", None),
    ],
)
def test_a_step_is_right_if_it_is_the_next_line_of_the_solution(before: str, step: str, expected: bool | None) -> None:
    assert TASK.verify_step(problem_of("7+2*5-3*4"), before, step) is expected


def test_every_line_of_a_right_solution_is_right_and_the_first_mistake_is_wrong() -> None:
    for seed, problem in enumerate(TASK.problems("train", 50, 1)):
        for mistakes in (0.0, 0.5):
            text = TASK.demonstrate(problem, Random(seed), mistakes)
            lines = text.splitlines(keepends=True)
            checks = [TASK.verify_step(problem, "".join(lines[:at]), line) for at, line in enumerate(lines)]
            assert all(checks) == (TASK.verify(text, problem.reference) == 1.0)
            assert sum(check is True for check in checks) <= TASK.terms
