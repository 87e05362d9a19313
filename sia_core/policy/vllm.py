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

Replies depend on the seed, but a GPU does not guarantee the same bits in another batch. The policy was never run
against a GPU: the tests use a small model behind the wire format of vLLM 0.32.0's source.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import ToolCall
from sia_core.policy.base import base_digest
from sia_core.policy.local import PROBE
from sia_core.policy.local.engine import Logits
from sia_core.policy.local.sampling import walk
from sia_core.policy.local.template import read_calls, render_prompt
from sia_core.policy.protocol import Completion, EndpointError, RejectedRequestError, Request
from sia_core.policy.retry import Retry
from sia_core.policy.spec import ServerSpec, served_digest
from sia_core.policy.trie import Ids, branches
from sia_core.policy.vllm_client import VllmClient
from sia_core.policy.vllm_wire import Choice, bundles, probing_body, sampling_body, scored, scoring_body

COLDEST = 0.01
"""Temperature to which vLLM raises lower ones (vllm.sampling_params._MAX_TEMP)."""


class VllmPolicy:
    """A base model on a vLLM server, with LoRA adapters. Thread-safe."""

    trainable = True

    def __init__(self, spec: ServerSpec, base: Path, key: str, retry: Retry | None = None) -> None:
        """Load the tokenizer.

        Raises:
            PolicyError: no model in `base`.
        """
        self.spec = spec.spec
        self.digest = served_digest(base)
        self.concurrency = spec.concurrency()
        self._client = VllmClient(spec, key, base_digest(base), retry or Retry())
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self._tokenizing = threading.Lock()
        self._ends = _end_tokens(self._tokenizer, base)

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        if request.sampling.temperature < COLDEST:
            what = f"temperature {request.sampling.temperature:g} would be raised to {COLDEST}"
            raise PolicyError(what, where=self.spec, hint=f"sample at {COLDEST} or above")
        return self._reply(request) if request.options is None else self._choose(request, request.options)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of each token of a fixed text, given the tokens before it, comparable with the trainer's."""
        ids = self._encode(PROBE)
        (choice,) = self._complete([ids], probing_body(), adapter)
        found = [(at or {}).get(str(token)) for token, at in zip(ids, choice.prompt_logprobs or (), strict=False)][1:]
        if len(found) != len(ids) - 1 or None in found:
            raise PolicyError("the server gives no logprobs of the prompt", where=self.spec, hint="use vLLM 0.32")
        return tuple(token.logprob for token in found if token is not None)

    def _reply(self, request: Request) -> Completion:
        text, prompt = self._prompt(request)
        sampling = request.sampling
        self._check_length(len(prompt), sampling.max_tokens, "max_tokens")
        body = sampling_body(
            temperature=sampling.temperature, seed=request.seed, max_tokens=sampling.max_tokens, ends=self._ends
        )
        (choice,) = self._complete([prompt], body, request.adapter)
        output, logprobs = tuple(choice.token_ids or ()), tuple(choice.logprobs.token_logprobs)
        if len(output) != len(logprobs) or not output:
            raise EndpointError(f"{len(logprobs)} logprobs of {len(output)} tokens", where=self.spec)
        finish = "stop" if output[-1] in self._ends else "length"
        reply, calls = self._read(request, text, output, finish)
        return Completion(
            reply,
            text,
            prompt,
            output,
            logprobs,
            finish="tool_calls" if calls and finish == "stop" else finish,
            tool_calls=calls,
            prompt_tokens=len(prompt),
            output_tokens=len(output),
        )

    def _read(self, request: Request, prompt: str, output: Ids, finish: str) -> tuple[str, tuple[ToolCall, ...]]:
        reply = self._decode(output)
        if not request.tools:
            return reply, ()
        ended = output[:-1] if finish == "stop" else output
        beside, calls = read_calls(self._tokenizer, request, prompt, self._decode(ended, special=True))
        return (reply if beside is None else beside), calls

    def _choose(self, request: Request, options: Sequence[str]) -> Completion:
        if not options or len(set(options)) < len(options):
            what = f"{len(options)} options, {len(set(options))} of them different"
            raise RejectedRequestError(what, where="options", hint="give at least one, and none twice")
        text, prompt = self._prompt(request)
        # The text of an end token in an option must not become an end token.
        tokens = [(*self._encode(option, split_special_tokens=True), self._ends[0]) for option in options]
        self._check_length(len(prompt), max(map(len, tokens)), "the longest option")
        logits = self._score(prompt, branches(tokens), request.adapter)
        sampled = walk(tokens, logits, request.sampling.temperature, request.seed)
        return Completion(
            options[tokens.index(sampled.ids)],
            text,
            prompt,
            *sampled,
            prompt_tokens=len(prompt),
            output_tokens=len(sampled.ids),
        )

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

    def _complete(self, prompts: Sequence[Ids], body: dict[str, Any], adapter: Adapter | None) -> list[Choice]:
        self._client.connect(self._encode(PROBE))
        return self._client.complete(prompts, body, adapter)

    def _check_length(self, prompt: int, more: int, what: str) -> None:
        context = self._client.connect(self._encode(PROBE)).context
        if context is not None and prompt + more > context:
            raise RejectedRequestError(
                f"{prompt} tokens of prompt and {more} of {what} do not fit into the server's {context}",
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


def _end_tokens(tokenizer: Any, base: Path) -> Ids:
    """Ids that end a turn, in the local policy's order: the first one closes an option."""
    try:
        config: Any = GenerationConfig.from_pretrained(base)
    except OSError:
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(base))
    ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *ids) if token is not None))
