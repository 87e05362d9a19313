"""Define requests to a vLLM server and the fields read from its answers. Written from the source of vLLM 0.32.0.

Prompts go out as token ids to /v1/completions and ids come back (`return_token_ids`), so nothing is
tokenised twice. Parameters that a server would otherwise take from the model's generation_config.json
(top_p, top_k, repetition penalty) are always sent, so that the distribution is exactly the softmax of the logits
over the temperature.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field

from sia_core.policy.server import Answer
from sia_core.policy.trie import Ids

SCORED_IDS: Final = 128
"""Maximum token ids in `logprob_token_ids` (vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS)."""
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that --max-lora-rank takes."""

_PLAIN: Final[Mapping[str, Any]] = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "add_special_tokens": False,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}


class Logprobs(Answer):
    """Logprobs of the sampled tokens; `top_logprobs` has the requested ids, as `token_id:N`."""

    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = None


class Choice(Answer):
    """One sampled continuation. A finish of `abort` or `error` is invalid."""

    index: int
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: Logprobs
    prompt_logprobs: list[dict[str, "PromptToken"] | None] | None = None


class PromptToken(Answer):
    """Score of a token of the prompt."""

    logprob: float


class Completions(Answer):
    """Answer of /v1/completions."""

    choices: list[Choice] = Field(min_length=1)


class Card(Answer):
    """An entry of /v1/models: the base model, or an adapter, whose `parent` is the base."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class Models(Answer):
    """Answer of /v1/models."""

    data: list[Card]


class Version(Answer):
    """Answer of /version."""

    version: str


def sampling_body(*, temperature: float, seed: int, max_tokens: int, ends: Sequence[int]) -> dict[str, Any]:
    """Parameters to sample a reply with logprobs."""
    return {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "seed": seed % 2**63,
        "logprobs": 0,
        "extra_body": {**_PLAIN, "stop_token_ids": list(ends)},
    }


def scoring_body(ids: Sequence[int]) -> dict[str, Any]:
    """Parameters to get the logprobs of `ids` as next token, over the whole vocabulary.

    At temperature 1, the modes raw_logprobs and processed_logprobs return the same logprobs.
    """
    extra = {**_PLAIN, "logprob_token_ids": list(ids)}
    return {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0, "logprobs": 1, "extra_body": extra}


def probing_body() -> dict[str, Any]:
    """Parameters to get the logprob of each token of the prompt."""
    extra = {**_PLAIN, "prompt_logprobs": 0}
    return {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0, "logprobs": 0, "extra_body": extra}


def scored(choice: Choice, ids: Sequence[int]) -> tuple[float, ...] | None:
    """Return the requested logprobs; None if the server left some out."""
    first = (choice.logprobs.top_logprobs or [{}])[0]
    found = [first.get(f"token_id:{token}") for token in ids]
    return tuple(value for value in found if value is not None) if None not in found else None


def bundles(paths: Mapping[Ids, Ids], limit: int = SCORED_IDS) -> list[tuple[list[Ids], Ids]]:
    """Group paths for requests, each group with all ids allowed after any of its paths.

    A path with more ids than one request takes is in several groups, with different ids.
    """
    made: list[tuple[list[Ids], dict[int, None]]] = []
    for path, allowed in paths.items():
        for start in range(0, len(allowed), limit):
            part = dict.fromkeys(allowed[start : start + limit])
            if made and path not in made[-1][0] and len(made[-1][1] | part) <= limit:
                made[-1][0].append(path)
                made[-1][1].update(part)
            else:
                made.append(([path], part))
    return [(group, tuple(ids)) for group, ids in made]
