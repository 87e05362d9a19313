"""`local`: a Hugging Face model in this process, with LoRA adapters through PEFT.

Token ids are recorded exactly as fed and sampled, never re-tokenised. Every request is computed
alone and in the same way whatever was asked before: no batching of different requests, a fixed
thread count, and a memo that returns what would be computed again. A resumed run therefore
repeats itself bit for bit.

Suffixes: T positions, V vocabulary.
"""

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import log
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sia_core.candidate import Adapter
from sia_core.policy.base import base_digest, check_adapter
from sia_core.policy.protocol import Completion, Message, Request
from sia_core.policy.scripted import check_options, render
from sia_core.policy.trie import branches, keep, next_tokens

MEMO_ENTRIES = 4096
ADAPTERS_KEPT = 4
PROBE = "The quick brown fox jumps over the lazy dog. 1 + 1 ="


_Logits = dict[tuple[int, ...], tuple[float, ...]]
"""All branching paths of one (adapter, prompt, options): logits of the tokens allowed there."""


class LocalPolicy:
    """A causal language model on CPU or GPU. One request at a time."""

    trainable = True
    concurrency = 1

    def __init__(self, spec: str, base: Path, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.spec = spec
        self.digest = base_digest(base)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._model: Any = load_base(base).to(self._device).eval()
        self._bare = self._model
        self._loaded: OrderedDict[str, str] = OrderedDict()
        self._memo: OrderedDict[tuple[object, ...], _Logits] = OrderedDict()
        self._ends = end_tokens(self._tokenizer, self._model)

    @torch.inference_mode()
    def sample(self, request: Request) -> Completion:
        """As `Policy.sample`."""
        return self._reply(request) if request.options is None else self._choose(request, request.options)

    def _reply(self, request: Request) -> Completion:
        """Sample until an end token or `sampling.max_tokens`."""
        sampling = request.sampling
        text = self._render(request.messages)
        prompt = self._encode(text)
        rng = random.Random(request.seed)
        output: list[int] = []
        logprobs: list[float] = []
        with self._using(request.adapter) as model:
            fed, cache = prompt, None
            while len(output) < sampling.max_tokens:
                result = model(input_ids=self._ids(fed), past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = result.past_key_values
                logprob_V = torch.log_softmax(result.logits[0, -1].double() / sampling.temperature, -1)
                token = _pick(logprob_V.exp().tolist(), rng)
                output.append(token)
                logprobs.append(float(logprob_V[token]))
                if token in self._ends:
                    break
                fed = [token]
        finish = "stop" if output and output[-1] in self._ends else "length"
        reply = str(self._tokenizer.decode(output, skip_special_tokens=True))
        return Completion(reply, text, tuple(prompt), tuple(output), tuple(logprobs), None, finish)

    def _choose(self, request: Request, options: Sequence[str]) -> Completion:
        """Walk the trie of the options' tokens, sampling at each branch from the softmax over its children."""
        check_options(options)
        text = self._render(request.messages)
        prompt = tuple(self._encode(text))
        # An option that spells an end token out must not end before its end.
        tokens = [(*self._encode(option, split_special_tokens=True), self._ends[0]) for option in options]
        logits = self._evaluate(prompt, tokens, request.adapter)
        rng = random.Random(request.seed)
        output: list[int] = []
        logprobs: list[float] = []
        allowed: list[tuple[int, ...]] = []
        left: Sequence[tuple[int, ...]] = tokens
        while len(left) > 1 or len(output) < len(left[0]):
            ids = next_tokens(left, len(output))
            token, logprob = ids[0], 0.0
            if len(ids) > 1:
                token, logprob = _sample(ids, logits[tuple(output)], request.sampling.temperature, rng)
            left = keep(left, len(output), token)
            allowed.append(ids)
            output.append(token)
            logprobs.append(logprob)
        picked = options[tokens.index(tuple(output))]
        return Completion(picked, text, prompt, tuple(output), tuple(logprobs), tuple(allowed))

    @torch.inference_mode()
    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of each token of a fixed text, given those before it."""
        ids = self._encode(PROBE)
        with self._using(adapter) as model:
            logprob_TV = torch.log_softmax(model(input_ids=self._ids(ids)).logits[0].float(), -1)
        return tuple(float(logprob_TV[at, token]) for at, token in enumerate(ids[1:]))

    def _evaluate(
        self, prompt: tuple[int, ...], options: Sequence[tuple[int, ...]], adapter: Adapter | None
    ) -> _Logits:
        key = (adapter.digest if adapter else None, prompt, tuple(options))
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        self._memo[key] = logits = self._compute(prompt, branches(options), adapter)
        if len(self._memo) > MEMO_ENTRIES:
            self._memo.popitem(last=False)
        return logits

    def _compute(
        self, prompt: tuple[int, ...], paths: Mapping[tuple[int, ...], tuple[int, ...]], adapter: Adapter | None
    ) -> _Logits:
        """One pass over the prompt, whose cache all paths share, and one over each path that is not empty."""
        logits: _Logits = {}
        if not paths:
            return logits
        with self._using(adapter) as model:
            result = model(input_ids=self._ids(prompt), use_cache=True, logits_to_keep=1)
            cache = result.past_key_values
            for path, ids in paths.items():
                if path:
                    cache.crop(len(prompt) - cache.get_seq_length())
                    result = model(input_ids=self._ids(path), past_key_values=cache, use_cache=True, logits_to_keep=1)
                logits[path] = tuple(result.logits[0, -1, list(ids)].double().tolist())
        return logits

    def _using(self, adapter: Adapter | None) -> Any:
        """Context in which the model answers with that adapter, or bare."""
        if adapter is None:
            return nullcontext(self._bare) if not self._loaded else _Disabled(self._model)
        name = self._load(adapter)
        self._model.set_adapter(name)
        return nullcontext(self._model)

    def _load(self, adapter: Adapter) -> str:
        if adapter.digest in self._loaded:
            self._loaded.move_to_end(adapter.digest)
            return self._loaded[adapter.digest]
        check_adapter(adapter, self.digest)
        # The name is the content: a name never comes to mean other weights.
        name = f"sha_{adapter.digest[:24]}"
        if not isinstance(self._model, PeftModel):
            self._model = PeftModel.from_pretrained(self._bare, adapter.path, adapter_name=name).eval()
        else:
            self._model.load_adapter(adapter.path, adapter_name=name)
        self._loaded[adapter.digest] = name
        if len(self._loaded) > ADAPTERS_KEPT:
            _, oldest = self._loaded.popitem(last=False)
            self._model.delete_adapter(oldest)
        return name

    def _render(self, messages: Sequence[Message]) -> str:
        if self._tokenizer.chat_template is None:
            return f"{render(messages)}\nassistant: "
        return str(
            self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        )

    def _encode(self, text: str, **how: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, **how))

    def _ids(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self._device)


class _Disabled:
    """Answers with all adapters switched off."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._context: Any = None

    def __enter__(self) -> Any:
        self._context = self._model.disable_adapter()
        self._context.__enter__()
        return self._model

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)


def load_base(base: Path) -> Any:
    """The base model in fp32, on a GPU too: one digest of a policy is to stand for one distribution."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def end_tokens(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Ids that end a turn; the first one closes an option."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *ids) if token is not None))


def _sample(ids: Sequence[int], logits: Sequence[float], temperature: float, rng: random.Random) -> tuple[int, float]:
    """One of the tokens, and its logprob among them."""
    chances = torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, -1).tolist()
    index = _pick(chances, rng)
    return ids[index], log(chances[index])


def _pick(chances: Sequence[float], rng: random.Random) -> int:
    """Inverse of the cumulative distribution at one uniform number."""
    left = rng.random() * sum(chances)
    for index, chance in enumerate(chances):
        left -= chance
        if left < 0:
            return index
    return max(range(len(chances)), key=lambda index: chances[index])
