"""A policy whose prompts are rendered and tokenised in this process, wherever its model computes."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import ToolCall
from sia_core.policy.choice import check_options
from sia_core.policy.local.engine import Logits
from sia_core.policy.local.loading import load_tokenizer
from sia_core.policy.local.sampling import Sampled, walk
from sia_core.policy.local.template import read_calls, render_prompt
from sia_core.policy.protocol import Completion, RejectedRequestError, Request, under_ceiling
from sia_core.policy.trie import Ids, branches


class TokenPolicy(ABC):
    """Makes completions of token ids. Thread-safe."""

    trainable = True
    spec: str
    _holder: ClassVar[str]
    """Who sets the limit of the context, as messages name it."""
    _ends: Ids
    """Ids that end a turn; the first one closes an option."""

    def __init__(self, base: Path) -> None:
        self._tokenizer: Any = load_tokenizer(base)
        # Encoding with other options than before changes a tokenizer's state.
        self._tokenizing = threading.Lock()

    @abstractmethod
    def _draw(self, request: Request, prompt: Ids) -> Sampled:
        """Sample a reply."""

    @abstractmethod
    def _score(self, prompt: Ids, paths: Mapping[Ids, Ids], adapter: Adapter | None) -> Logits:
        """Logits of the tokens allowed after each path."""

    @abstractmethod
    def _context(self) -> int | None:
        """Most tokens of prompt and reply together."""

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        return self._reply(request) if request.options is None else self._choose(request, request.options)

    def _reply(self, request: Request) -> Completion:
        text, prompt = self._prompt(request)
        request = under_ceiling(request, len(prompt))
        self._check_length(len(prompt), request.sampling.max_tokens, "max_tokens")
        sampled = self._draw(request, prompt)
        output = sampled.ids
        finish = "stop" if output and output[-1] in self._ends else "length"
        reply = self._decode(output)
        calls: tuple[ToolCall, ...] = ()
        if request.tools:
            ended = output[:-1] if finish == "stop" else output
            beside, calls = read_calls(self._tokenizer, request, text, self._decode(ended, special=True))
            reply = reply if beside is None else beside
        if calls and finish == "stop":
            finish = "tool_calls"
        return Completion(reply, text, prompt, *sampled, finish, calls, len(prompt), len(output))

    def _choose(self, request: Request, options: Sequence[str]) -> Completion:
        check_options(options)
        text, prompt = self._prompt(request)
        # An option that spells an end token out must not end before its end.
        tokens = [(*self._encode(option, split_special_tokens=True), self._ends[0]) for option in options]
        longest = max(map(len, tokens))
        under_ceiling(request, len(prompt), longest)
        self._check_length(len(prompt), longest, "the longest option")
        logits = self._score(prompt, branches(tokens), request.adapter)
        sampled = walk(tokens, logits, request.sampling.temperature, request.seed)
        option = options[tokens.index(sampled.ids)]
        return Completion(option, text, prompt, *sampled, "stop", (), len(prompt), len(sampled.ids))

    def _check_length(self, prompt: int, more: int, what: str) -> None:
        context = self._context()
        if context is not None and prompt + more > context:
            raise RejectedRequestError(
                f"{prompt} tokens of prompt and {more} of {what} do not fit into the {self._holder}'s {context}",
                where=self.spec,
                hint="shorten the messages, or ask for fewer tokens",
            )

    def _prompt(self, request: Request) -> tuple[str, Ids]:
        with self._tokenizing:
            text = render_prompt(self._tokenizer, request)
        return text, self._encode(text)

    def _encode(self, text: str, **how: bool) -> Ids:
        with self._tokenizing:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False, **how))

    def _decode(self, ids: Ids, *, special: bool = False) -> str:
        with self._tokenizing:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))


def end_tokens(tokenizer: Any, config: Any) -> Ids:
    """Ids that end a turn, by the tokenizer and by the model's generation config."""
    ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *ids) if token is not None))
