"""`vllm:DIR@URL`: a vLLM server as a trainable policy. (`engine.served` starts a server for a run.)

DIR is the base model's Hugging Face directory with which the server was started (the server may have a copy
elsewhere). Prompts are rendered and tokenised here, as the local policy does, and sent as token ids; ids and
logprobs come back. So a `Completion` is equivalent to the local policy's:

- The server samples replies. Logprobs are under the temperature, for which the server must run with
  `--logprobs-mode processed_logprobs`. The mode is measured once, and any other is refused.
- Choices are drawn here. `logprob_token_ids` returns the logprobs of exactly the tokens that are allowed after
  each branching path, over the whole vocabulary and at temperature 1. The restricted softmax is that of
  these logprobs over the temperature: the normaliser cancels. Branches are sent together where they fit, and
  the server's prefix cache reads the prompt once.
- Adapters are loaded while the server runs (`VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 --enable-lora`), from a
  file system that the server shares.

Replies depend on the seed, but a GPU does not guarantee the same bits in another batch. The policy was run
against vLLM 0.32.0 on a CPU (`tests/servers`), never on a GPU. The default tests imitate the server's wire format.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.local import PROBE
from sia_core.policy.local.engine import Logits
from sia_core.policy.local.loading import TRUSTS_NOTHING
from sia_core.policy.local.sampling import Sampled
from sia_core.policy.local.tokens import TokenPolicy, end_tokens
from sia_core.policy.protocol import Completion, EndpointError, Request
from sia_core.policy.retry import Retry
from sia_core.policy.spec import ServerSpec, served_digest
from sia_core.policy.trie import Ids
from sia_core.policy.vllm_client import VllmClient
from sia_core.policy.vllm_wire import Choice, bundles, probing_body, sampling_body, scored, scoring_body

COLDEST = 0.01
"""Temperature to which vLLM raises lower ones (vllm.sampling_params._MAX_TEMP)."""


class VllmPolicy(TokenPolicy):
    """A base model on a vLLM server, with LoRA adapters. Thread-safe."""

    _holder = "server"

    def __init__(self, spec: ServerSpec, base: Path, key: str, retry: Retry | None = None) -> None:
        """Load the tokenizer.

        Raises:
            PolicyError: no model in `base`.
        """
        self.spec = spec.spec
        self.digest = served_digest(base)
        super().__init__(base)
        self.concurrency = spec.concurrency()
        self._client = VllmClient(spec, key, base, retry or Retry())
        self._ends = _end_tokens(self._tokenizer, base)

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        if request.sampling.temperature < COLDEST:
            what = f"temperature {request.sampling.temperature:g} would be raised to {COLDEST}"
            raise PolicyError(what, where=self.spec, hint=f"sample at {COLDEST} or above")
        return super().sample(request)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of each token of a fixed text, given the tokens before it, comparable with the trainer's."""
        ids = self._encode(PROBE)
        (choice,) = self._complete([ids], probing_body(), adapter)
        found = [(at or {}).get(str(token)) for token, at in zip(ids, choice.prompt_logprobs or (), strict=False)][1:]
        if len(found) != len(ids) - 1 or None in found:
            raise PolicyError("the server gives no logprobs of the prompt", where=self.spec, hint="use vLLM 0.32")
        return tuple(token.logprob for token in found if token is not None)

    def _draw(self, request: Request, prompt: Ids) -> Sampled:
        sampling = request.sampling
        body = sampling_body(
            temperature=sampling.temperature, seed=request.seed, max_tokens=sampling.max_tokens, ends=self._ends
        )
        (choice,) = self._complete([prompt], body, request.adapter)
        output, logprobs = tuple(choice.token_ids or ()), tuple(choice.logprobs.token_logprobs)
        if len(output) != len(logprobs) or not output:
            raise EndpointError(f"{len(logprobs)} logprobs of {len(output)} tokens", where=self.spec)
        return Sampled(output, logprobs)

    def _score(self, prompt: Ids, paths: Mapping[Ids, Ids], adapter: Adapter | None) -> Logits:
        """Logprobs of the tokens allowed after each path."""
        found: dict[Ids, dict[int, float]] = {path: {} for path in paths}
        for group, ids in bundles(paths):
            choices = self._complete([(*prompt, *path) for path in group], scoring_body(ids), adapter)
            for path, choice in zip(group, choices, strict=True):
                values = scored(choice, ids)
                if values is None:
                    raise EndpointError("the server left out requested logprobs", where=self.spec)
                found[path] |= dict(zip(ids, values, strict=True))
        return {path: tuple(found[path][token] for token in allowed) for path, allowed in paths.items()}

    def _context(self) -> int | None:
        return self._client.connect(self._encode(PROBE)).context

    def _complete(self, prompts: Sequence[Ids], body: dict[str, Any], adapter: Adapter | None) -> list[Choice]:
        self._client.connect(self._encode(PROBE))
        return self._client.complete(prompts, body, adapter)


def _end_tokens(tokenizer: Any, base: Path) -> Ids:
    try:
        config: Any = GenerationConfig.from_pretrained(base)
    except OSError:
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(base, **TRUSTS_NOTHING))
    return end_tokens(tokenizer, config)
