"""`local`: a Hugging Face model in this process, with LoRA adapters through PEFT.

Token ids are recorded exactly as fed and sampled, never re-tokenised. Requests of many threads are
served with continuous batching (`scheduler`), each with its own adapter, seed and limits.

Guarantees:
- Prompts, options and probes are computed alone and then cached, so other requests do not change them.
- With `batch=1`, replies are computed alone too. A resumed run repeats itself bit for bit.
- With a larger batch, the logprobs of a reply may differ from those of the same ids computed alone,
  because products of many rows are summed in another order than those of one row: in fp32 by less than 1e-5 on
  the tests' model, at most 3e-5 (median 2e-6) on SmolLM2. If kernels treat whole blocks of rows alike (see
  `engine.ROWS`), logprobs do not depend on the rest of the batch. On a GPU, which was never tested, they may.
"""

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import ToolCall
from sia_core.policy.base import base_digest
from sia_core.policy.local.engine import Engine, load_base
from sia_core.policy.local.sampling import Reply, Sampled, walk
from sia_core.policy.local.scheduler import Scheduler
from sia_core.policy.local.template import read_calls, render_prompt
from sia_core.policy.protocol import Completion, RejectedRequestError, Request
from sia_core.policy.trie import Ids, branches

__all__ = ["LocalPolicy", "load_base"]

ADAPTERS_KEPT = 4
PROBE = "The quick brown fox jumps over the lazy dog. 1 + 1 ="


class LocalPolicy:
    """A causal language model on CPU or GPU, for any number of threads."""

    trainable = True

    def __init__(self, spec: str, base: Path, *, threads: int, batch: int = 1) -> None:
        """Load the model.

        Args:
            threads: CPU threads of each forward pass.
            batch: number of replies sampled together.

        Raises:
            PolicyError: no such model, or a model that cannot be sampled in batches.
        """
        torch.set_num_threads(threads)
        self.spec = spec
        self.digest = base_digest(base)
        self.concurrency = batch
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        # A change of encoding options changes a tokenizer's state.
        self._tokenizing = threading.Lock()
        engine = Engine(base, self.digest, joined=batch > 1, kept=ADAPTERS_KEPT)
        self._engine = engine
        self._ends = end_tokens(self._tokenizer, engine.model)
        self._scheduler = Scheduler(lambda replies: engine.step([reply.row for reply in replies]), batch, spec)
        # Also at exit: a thread in the middle of a forward pass would crash the interpreter.
        self.close = weakref.finalize(self, self._scheduler.close)
        """Fail requests in flight and end the policy's thread."""

    @property
    def _model(self) -> Any:
        return self._engine.model

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        return self._reply(request) if request.options is None else self._choose(request, request.options)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of each token of a fixed text, given the tokens before it."""
        ids = self._encode(PROBE)
        logprobs: tuple[float, ...] = self._scheduler.run(lambda: self._engine.score(tuple(ids), adapter))
        return logprobs

    def _reply(self, request: Request) -> Completion:
        text, prompt = self._prompt(request)
        sampling = request.sampling
        self._check_length(len(prompt), sampling.max_tokens, "max_tokens")

        def start() -> Reply:
            row, logits_V = self._engine.begin(prompt, request.adapter)
            return Reply(row, logits_V, sampling, request.seed, self._ends)

        return self._complete(request, text, prompt, self._scheduler.run(start))

    def _choose(self, request: Request, options: Sequence[str]) -> Completion:
        if not options or len(set(options)) < len(options):
            what = f"{len(options)} options, {len(set(options))} of them different"
            raise RejectedRequestError(what, where="options", hint="give at least one, and none twice")
        text, prompt = self._prompt(request)
        # The text of an end token in an option must not become an end token.
        tokens = [(*self._encode(option, split_special_tokens=True), self._ends[0]) for option in options]
        self._check_length(len(prompt), max(map(len, tokens)), "the longest option")
        paths = branches(tokens)
        logits = self._scheduler.run(lambda: self._engine.evaluate(prompt, paths, request.adapter))
        sampled = walk(tokens, logits, request.sampling.temperature, request.seed)
        picked = options[tokens.index(sampled.ids)]
        return Completion(
            picked,
            text,
            prompt,
            *sampled,
            prompt_tokens=len(prompt),
            output_tokens=len(sampled.ids),
        )

    def _complete(self, request: Request, text: str, prompt: Ids, sampled: Sampled) -> Completion:
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
        return Completion(
            reply,
            text,
            prompt,
            *sampled,
            finish=finish,
            tool_calls=calls,
            prompt_tokens=len(prompt),
            output_tokens=len(output),
        )

    def _check_length(self, prompt: int, more: int, what: str) -> None:
        context = getattr(self._engine.config, "max_position_embeddings", None)
        if context is not None and prompt + more > context:
            raise RejectedRequestError(
                f"{prompt} tokens of prompt and {more} of {what} do not fit into the model's {context}",
                where=self.spec,
                hint="shorten the messages, or ask for fewer tokens",
            )

    def _prompt(self, request: Request) -> tuple[str, Ids]:
        with self._tokenizing:
            text = render_prompt(self._tokenizer, request)
        return text, tuple(self._encode(text))

    def _encode(self, text: str, **how: bool) -> list[int]:
        with self._tokenizing:
            return list(self._tokenizer.encode(text, add_special_tokens=False, **how))

    def _decode(self, ids: Ids, *, special: bool = False) -> str:
        with self._tokenizing:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))


def end_tokens(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Ids that end a turn; the first one closes an option."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *ids) if token is not None))
