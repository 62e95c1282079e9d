"""The tokenizer of `builtin:tiny`, and its untrained model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, ANSWER = "<pad>", "<bos>", "<eos>", "<answer>"
LARGEST_NUMBER = 299  # numbers up to this one are single tokens, so a step of arithmetic is one lookup

# A conversation is `<bos>`, the user's text, `<answer>`, the assistant's text, `<eos>`, and so on.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "<answer>{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


def blank_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer of bytes, with the numbers 10..LARGEST_NUMBER as single tokens; any text survives a round trip.

    A longer run of digits is split from the left: 2991 becomes 299 and 1; 007 stays 0, 0, 7.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [PAD, BOS, EOS, ANSWER, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    numbers = [str(number) for number in range(10, LARGEST_NUMBER + 1)]
    vocabulary = {name: index for index, name in enumerate(names + numbers)}
    merges = [(number[:-1], number[-1]) for number in numbers]
    # Without ignore_merges, 110 would become 1 and 10: the merge to 10 comes first.
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[12][0-9][0-9]|[1-9][0-9]|[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[ANSWER],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )


def blank_config() -> "LlamaConfig":
    """The model's shape."""
    from transformers import LlamaConfig

    tokenizer = blank_tokenizer()
    ids = tokenizer.get_vocab()
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
    )


def blank_model(seed: int) -> tuple["LlamaForCausalLM", "PreTrainedTokenizerFast"]:
    """The model with random weights (the same for the same seed), and its tokenizer."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(blank_config()), blank_tokenizer()
