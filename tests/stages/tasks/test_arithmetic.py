"""The task `arithmetic` and the tokenizer of `builtin:tiny`, which was made for it."""

from itertools import product
from pathlib import Path
from random import Random

import apportion.stages.models.tiny as tiny
import pytest
from apportion.formats.errors import UsageError
from apportion.stages.models.tiny.blank import blank_model, blank_tokenizer
from apportion.stages.tasks import Problem
from apportion.stages.tasks.arithmetic import Arithmetic, open_arithmetic, order_matters, parse

TASK = Arithmetic()
TINY = Path(tiny.__file__).parent


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


def test_order_that_does_not_matter_is_seen() -> None:
    # Two mistakes that cancel out: 4-2*2+2*4 = 8, and ((4-2)*2 = 4; (4+2)*4 = 24) differs, but
    # 2-2*3 … is below zero, and 2+2*2-2*2 = 2 where (2+2)*2 = 8, (8-2)*2 = 12 and 8-4 = 4, 6-2 = 4, 4*2 = 8 differ.
    assert order_matters(2, parse("2+2*2-2*2")[1], 299)
    assert not order_matters(2, parse("2-2*3")[1], 299)
    # (3-2)*2 = 2 and then (2+3)*2 = 10; right: 3-4 is below zero. With 6+4*2-2*4: right 6; (14-2)*4 = 48;
    # (10*2) - 8 = 12; (20-2)*4 = 72: kept only while 72 is allowed.
    assert order_matters(6, parse("6+4*2-2*4")[1], 72)
    assert not order_matters(6, parse("6+4*2-2*4")[1], 71)


def test_mistakes_that_cancel_out_are_refused() -> None:
    # Right: 9-2*4+2*2 = 5. Wrong first (9-2)*4 = 28, then 28+4 = 32 or 60. Right first 1, then (1+2)*2 = 6.
    assert order_matters(9, parse("9-2*4+2*2")[1], 299)
    # Right: 4-2*2 = 0, which equals nothing else, for (4-2)*2 = 4. But 0-0 is out: factors begin at 2, so
    # a single product never cancels: (v±b)*c = v±b*c needs v*(c-1) = 0, that is v = 0.
    assert not order_matters(0, parse("0+2*2")[1], 299)


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
    assert open_arithmetic("arithmetic", {}) == Arithmetic()
    task = open_arithmetic("arithmetic", {"terms": "2", "max_factor": 9})
    assert task.options == {"terms": 2, "max_factor": 9, "max_value": 299}
    assert task.spec == "arithmetic"
    assert all(expression.count("*") == 2 for expression in expressions(list(task.problems("train", 20, 0))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": 2}, "did you mean 'terms'"),
        ({"terms": "two"}, "needs a whole number in 1..8"),
        ({"terms": 0}, "needs a whole number in 1..8"),
        ({"terms": 2.5}, "needs a whole number in 1..8"),
    ],
)
def test_options_out_of_place(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_arithmetic("arithmetic", options)


def test_spec_takes_no_suffix() -> None:
    with pytest.raises(UsageError, match="takes nothing after its name"):
        open_arithmetic("arithmetic:hard", {})


def test_split_misspelt() -> None:
    with pytest.raises(UsageError, match="did you mean 'train'"):
        next(TASK.problems("trian", 1, 0))


def test_running_out_of_problems_is_a_fault_of_the_options() -> None:
    with pytest.raises(UsageError, match="no more train problems after"):
        list(Arithmetic(terms=1, max_factor=3).problems("train", 10_000, 0))


def test_tokenizer_gives_back_any_text() -> None:
    tokenizer = blank_tokenizer()
    for text in ["7+10=17\n17-12=5", "  a  b ,. 't ", "2991 007", "é 漢 🙂", "", "299*3=897"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_reads_a_number_as_one_token() -> None:
    tokenizer = blank_tokenizer()
    for number in range(300):
        assert len(tokenizer.encode(str(number))) == 1
    assert tokenizer.tokenize("2991 007") == ["299", "1", "Ġ", "0", "0", "7"]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_chat_template() -> None:
    tokenizer = blank_tokenizer()
    question = [{"role": "user", "content": "7+2*5"}]
    answer = [{"role": "assistant", "content": "7+10=17"}]
    assert tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False) == "<bos>7+2*5<answer>"
    whole = tokenizer.apply_chat_template(question + answer, return_dict=True, return_assistant_tokens_mask=True)
    assert tokenizer.decode(whole["input_ids"]) == "<bos>7+2*5<answer>7+10=17<eos>"
    assert whole["assistant_masks"] == [0] * 7 + [1] * 6


def test_the_tokenizer_shipped_is_the_one_built_here() -> None:
    from transformers import AutoTokenizer

    shipped, built = AutoTokenizer.from_pretrained(TINY), blank_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped.chat_template == built.chat_template
    text = "7+10=17\n17-12=5"
    assert shipped.encode(text) == built.encode(text)
    assert shipped.decode(shipped.encode(text)) == text
    assert (shipped.bos_token, shipped.eos_token, shipped.pad_token) == ("<bos>", "<eos>", "<pad>")


def test_blank_model_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone() -> None:
    import torch

    before = torch.random.get_rng_state()
    first, _ = blank_model(0)
    again, _ = blank_model(0)
    other, _ = blank_model(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.lm_head.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.num_parameters() < 1_000_000


@pytest.mark.model
def test_the_model_shipped_answers_in_steps() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(TINY), AutoModelForCausalLM.from_pretrained(TINY)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "7+2*5-3*4+2*2"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "7+10=17\n17-12=5\n5+4=9"
