"""Finding the final answer, and checking it."""

import threading
import time

import pytest
from apportion.stages.tasks.answers import check, final_answer, gold_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>3</answer> no: <answer> 4 </answer> done", "4"),
        (r"<answer>\boxed{4}</answer>", "4"),
        (r"<answer>\boxed{4} apples</answer>", r"\boxed{4} apples"),
        (r"\boxed{1} and \boxed{\frac{1}{2}} but \boxed{3", r"\frac{1}{2}"),
        ("Answer: 1\nThe final answer is **7**.", "7"),
        ("Answer: 12.5", "12.5"),
        ("The answer is:\n1 2\n3 4\n", "1 2\n3 4"),
        ("first\n\n 5 \n\n", "5"),
        ("<answer>4", "<answer>4"),
        ("</answer>4<answer>", "</answer>4<answer>"),
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_final_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_hashes_count_only_where_they_are_asked_for() -> None:
    assert final_answer("so\n#### 5\nnever mind", hashes=True) == "5"
    assert final_answer("so\n#### 5\nnever mind") == "never mind"


def test_last_boxed_is_none_where_there_is_no_complete_one() -> None:
    assert last_boxed(r"\boxed{1") is None
    assert last_boxed("1") is None


@pytest.mark.parametrize(
    ("solution", "answer"),
    [("1+1=2\n#### 1,000", "1,000"), (r"so $\boxed{\sqrt{2}}$", r"\sqrt{2}"), (" Paris\n", "Paris")],
)
def test_gold_answer(solution: str, answer: str) -> None:
    assert gold_answer(solution) == answer


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("1,234.", "1234"),
        ("$5$", "5"),
        (r"\text{East}", "east"),
        (r"\frac{1}{2}", "0.5"),
        ("0.5", r"\frac{1}{2}"),
        ("x + 1", "1+x"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        (r"\{2, 1\}", r"\{1, 2\}"),
        ("A", "(A)"),
    ],
)
def test_equal(answer: str, reference: str) -> None:
    assert check(answer, [reference]) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("6", "5"),
        ("", ""),
        ("Pairs", "Paris"),
        ("x+2", "x+1"),
        ("1234", "1.234"),
        (r"\frac{", "5"),
        ("\0", "5"),
        ("9" * 5_000, "9"),
    ],
)
def test_not_equal(answer: str, reference: str) -> None:
    assert check(answer, [reference]) == 0.0


def test_one_of_the_accepted_answers_is_enough() -> None:
    assert check("NYC", ["New York", "nyc"]) == 1.0
    assert check("NYC", []) == 0.0


def test_what_takes_too_long_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    assert check("9^{9^{9^{9}}}", ["5"]) == 0.0
    assert time.perf_counter() - start < 30
    assert capfd.readouterr() == ("", "")


def test_off_the_main_thread() -> None:
    scores: list[float] = []
    thread = threading.Thread(target=lambda: scores.append(check(r"\frac{1}{2}", ["0.5"])))
    thread.start()
    thread.join()
    assert scores == [1.0]
