"""The built-in model: its tokenizer, its blank weights, and the files that are shipped."""

from typing import Any

from apportion.formats.own import CHECKPOINT_HISTORY
from apportion.formats.provenance import Provenance
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Request, Sampling
from apportion.stages.models.policy import TINY, ModelSource, load_policy, render_prompt
from apportion.stages.models.tiny.blank import blank_model, blank_tokenizer


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
    whole: Any = tokenizer.apply_chat_template(question + answer, return_dict=True, return_assistant_tokens_mask=True)
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


def test_the_model_shipped_answers_in_steps() -> None:
    policy = load_policy("builtin:tiny")
    problem = [{"role": "user", "content": "7+2*5-3*4+2*2"}]
    request = Request(render_prompt(policy.tokenizer, problem), [0])
    ((answer,),) = open_engine("transformers", ModelSource("builtin:tiny")).generate(
        [request], Sampling(max_tokens=40, temperature=0)
    )
    assert policy.tokenizer.decode(answer.ids, skip_special_tokens=True) == "7+10=17\n17-12=5\n5+4=9"


def test_the_model_shipped_is_small() -> None:
    assert sum(parameter.numel() for parameter in load_policy("builtin:tiny").model.parameters()) <= 2_000_000
    assert sum(path.stat().st_size for path in TINY.iterdir() if path.is_file()) <= 5_000_000


def test_the_model_shipped_says_how_it_was_made() -> None:
    (record,) = Provenance.from_json((TINY / CHECKPOINT_HISTORY).read_text()).history
    assert record.parameters["objective"] == "sft"
    assert record.parameters["model"] == "builtin:tiny-blank"
