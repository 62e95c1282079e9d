"""Finding the final answer, and checking it."""

import threading
import time
from pathlib import Path

import pytest
from apportion.stages.tasks.answers import check, final_answer, gold_answer, last_boxed, takes_long


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
    assert check("(x+1)^{99999}", ["5"]) == 0.0
    assert time.perf_counter() - start < 30
    assert capfd.readouterr() == ("", "")


def test_off_the_main_thread() -> None:
    scores: list[float] = []
    thread = threading.Thread(target=lambda: scores.append(check(r"\frac{1}{2}", ["0.5"])))
    thread.start()
    thread.join()
    assert scores == [1.0]


@pytest.mark.parametrize(
    "formula",
    [
        "9**9**9**9", r"9^{9^{9^{9}}}", "10^{10^{10}}", r"\frac{1}{10^{999999999}}", "99999999!", r"(10^{10^{10}})!",
        r"\binom{999999999}{99999999}", "{" * 500 + "1" + "}" * 500, "(" * 500 + "1" + ")" * 500, "2^{2^{2^{2^{2^{2}}}}}",
    ],
)  # fmt: skip
def test_what_would_take_for_ever_is_refused_at_once(formula: str) -> None:
    start = time.process_time()
    assert check(formula, ["5"]) == check("5", [formula]) == check(formula, ["x^2"]) == 0.0
    assert check(formula, [formula]) == 1.0
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "formula",
    ["2^{2008}", "x^{n^2}", "2^{2^{10}}", "20!", r"\binom{49}{6}", "e^{-x^{2}}", "((x+1)^{2})^{3}", "10^{-12}"],
)
def test_ordinary_formulas_do_not_take_long(formula: str) -> None:
    assert not takes_long(formula)


def test_no_answer_or_reference_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in (
        "__import__('os').system('touch ran')",
        "(lambda: open('ran','w'))()",
        r"\text{open('ran','w')}",
        "1+open('ran','w')",
        "exec('1')",
    ):
        assert check(code, ["5"]) == check("5", [code]) == check(code, ["x^2 + 1"]) == 0.0
    assert not list(tmp_path.iterdir())
