"""A tiny model for tests: real files, real tokenizer, real forward passes, in a second."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"


TEMPLATE = """\
{%- for tool in tools or [] %}tool {{ tool.function.name }}\n{% endfor %}
{%- for message in messages %}{{ message.role }}: {{ message.content or '' }}
{%- for call in message.tool_calls or [] %}call {{ call.function.name }}{% endfor %}
{{ '' }}
{% endfor %}
{%- if add_generation_prompt %}assistant: {% endif %}"""
"""Chat template for servers that ask for one; it takes tools and their answers."""


def make_tiny_model(directory: Path, heads: int = 4, template: str | None = None, window: int = 512) -> Path:
    """A random Llama of 0.1 M parameters over bytes, saved as a Hugging Face directory. Deterministic.

    Args:
        directory: where to save it.
        heads: number of attention heads; vLLM needs heads of 32 numbers, which 2 give.
        template: chat template of the tokenizer.
        window: tokens of prompt and reply together.
    """
    vocabulary = {token: index for index, token in enumerate([END, "<|pad|>", *sorted(_byte_tokens())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    fast = make(tokenizer_object=tokenizer, eos_token=END, pad_token="<|pad|>")
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=window,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=1,
        tie_word_embeddings=False,
        # Ten times the usual spread: with the usual one all options look alike to a random model.
        initializer_range=0.2,
    )
    # With this seed the choices that tests ask for are open: no option has nearly all the chance.
    torch.manual_seed(2)
    LlamaForCausalLM(config).save_pretrained(directory)
    fast.chat_template = template
    fast.save_pretrained(directory)
    return directory


def _byte_tokens() -> list[str]:
    return pre_tokenizers.ByteLevel.alphabet()
