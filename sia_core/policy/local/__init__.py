"""`local`: a Hugging Face model in this process, with LoRA adapters through PEFT.

Token ids are recorded exactly as fed and sampled, never re-tokenised. Requests of many threads are
served with continuous batching (`scheduler`), each with its own adapter, seed and limits.

Guarantees:
- Prompts, options and probes are computed alone and then cached, so other requests do not change them.
- With `batch=1`, replies are computed alone too. A resumed run repeats itself bit for bit.
- With a larger batch, the logprobs of a reply may differ with the number of replies that are sampled together,
  because products of many rows are summed in another order than those of one row: in fp32 by less than 1e-5 on
  the tests' model, at most 3e-5 (median 2e-6) on SmolLM2.
"""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sia_core.domain.candidate import Adapter
from sia_core.policy.base import base_digest
from sia_core.policy.local.engine import Engine, Logits
from sia_core.policy.local.loading import load_base
from sia_core.policy.local.sampling import Reply, Sampled
from sia_core.policy.local.scheduler import Scheduler
from sia_core.policy.local.tokens import TokenPolicy, end_tokens
from sia_core.policy.protocol import Request
from sia_core.policy.trie import Ids

__all__ = ["LocalPolicy", "load_base"]

ADAPTERS_KEPT = 4
PROBE = "The quick brown fox jumps over the lazy dog. 1 + 1 ="


class LocalPolicy(TokenPolicy):
    """A causal language model on CPU or GPU, for any number of threads."""

    _holder = "model"

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
        super().__init__(base)
        engine = Engine(base, self.digest, joined=batch > 1, kept=ADAPTERS_KEPT)
        self._engine = engine
        self._ends = end_tokens(self._tokenizer, engine.model.generation_config)
        self._scheduler = Scheduler(lambda replies: engine.step([reply.row for reply in replies]), batch, spec)
        # Also at exit: a thread in the middle of a forward pass would crash the interpreter.
        self.close = weakref.finalize(self, self._scheduler.close)
        """Fail requests in flight and end the policy's thread."""

    @property
    def _model(self) -> Any:
        return self._engine.model

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of each token of a fixed text, given the tokens before it."""
        ids = self._encode(PROBE)
        logprobs: tuple[float, ...] = self._scheduler.run(lambda: self._engine.score(ids, adapter))
        return logprobs

    def _draw(self, request: Request, prompt: Ids) -> Sampled:
        def start() -> Reply:
            row, logits_V = self._engine.begin(prompt, request.adapter)
            return Reply(row, logits_V, request.sampling, request.seed, self._ends)

        sampled: Sampled = self._scheduler.run(start)
        return sampled

    def _score(self, prompt: Ids, paths: Mapping[Ids, Ids], adapter: Adapter | None) -> Logits:
        logits: Logits = self._scheduler.run(lambda: self._engine.evaluate(prompt, paths, adapter))
        return logits

    def _context(self) -> int | None:
        context: int | None = getattr(self._engine.config, "max_position_embeddings", None)
        return context
