"""The connection to a vLLM server: check of its features, its adapters, and its completions."""

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.base import base_digest, check_adapter
from sia_core.policy.faults import UnknownModelError
from sia_core.policy.protocol import EndpointError, RejectedRequestError
from sia_core.policy.retry import Fault, Retry
from sia_core.policy.server import Server
from sia_core.policy.spec import ServerSpec
from sia_core.policy.trie import Ids
from sia_core.policy.vllm_adapters import Adapters
from sia_core.policy.vllm_wire import Card, Choice, Completions, Models, Version, scored, scoring_body

_HOW = "vllm serve DIR --enable-lora --logprobs-mode processed_logprobs (see docs/policies.md)"


@dataclass(frozen=True)
class Served:
    """Facts that the server reports about itself."""

    model: str
    """Name of the base model in requests."""
    context: int | None
    """Tokens of prompt and reply together."""


class VllmClient:
    """Client of a vLLM server, thread-safe. The first request connects."""

    def __init__(self, spec: ServerSpec, key: str, base: Path, retry: Retry) -> None:
        """Prepare the client without a request.

        Args:
            base: directory of the base model that adapters must have been trained on.
        """
        self._spec, self._base, self._digest = spec, base, base_digest(base)
        self._server = Server(spec, key, retry)
        self._root = spec.base_url.removesuffix("/v1")
        self._client = openai.OpenAI(api_key=key, base_url=f"{self._root}/v1", max_retries=0)
        self._adapters = Adapters(self._load, self._unload)
        self._checking = threading.Lock()
        self._served: Served | None = None

    def connect(self, probe: Ids) -> Served:
        """Check the server, once.

        Args:
            probe: a prompt on which logprobs are measured.

        Raises:
            PolicyError: a server without a required feature.
        """
        with self._checking:
            if self._served is None:
                version = self._server.ask(partial(self._get, f"{self._root}/version"), Version).version
                self._refuse_replicas()
                served = self._find_base()
                self._check_logprobs(served, probe, version)
                self._served = served
            return self._served

    def complete(self, prompts: Sequence[Ids], body: Mapping[str, Any], adapter: Adapter | None) -> list[Choice]:
        """Sample one continuation of each prompt.

        Raises:
            PolicyError: the server changed a prompt, or left token ids out.
        """
        assert self._served is not None
        for again in (False, True):
            try:
                with nullcontext(self._served.model) if adapter is None else self._adapters.using(adapter) as model:
                    return self._complete(model, prompts, body)
            except UnknownModelError:
                if adapter is None or again:
                    raise
                self._adapters.forget(adapter)  # The server was restarted.
        raise AssertionError("the second time returns or raises")

    def _complete(self, model: str, prompts: Sequence[Ids], body: Mapping[str, Any]) -> list[Choice]:
        def send(timeout: float) -> bytes:
            created = self._client.completions.with_raw_response.create(
                model=model, prompt=[list(ids) for ids in prompts], timeout=timeout, **body
            )
            return created.http_response.content

        choices = sorted(self._server.ask(send, Completions).choices, key=lambda choice: choice.index)
        if any(choice.token_ids is None for choice in choices):
            what, hint = "the server gives no token ids", "use vLLM 0.32 or newer"
            raise PolicyError(what, where=self._spec.spec, hint=hint)
        if [choice.prompt_token_ids for choice in choices] != [list(ids) for ids in prompts]:
            raise PolicyError("the server changed the prompt's tokens", where=self._spec.spec, hint=f"start {_HOW}")
        return choices

    def _get(self, url: str, timeout: float) -> bytes:
        return self._client.get(url, cast_to=httpx2.Response, options={"timeout": timeout}).content

    def _find_base(self) -> Served:
        cards = self._server.ask(partial(self._get, "/models"), Models).data
        bases = [card for card in cards if card.parent is None]
        meant = [card for card in bases if self._spec.model in (card.id, card.root)] or bases
        if len(meant) != 1:
            names = ", ".join(card.id for card in bases) or "none"
            what = f"which of the server's models is meant? It serves {names}"
            raise PolicyError(what, where=self._spec.spec, hint=f"start {_HOW}")
        card: Card = meant[0]
        return Served(card.id, card.max_model_len)

    def _refuse_replicas(self) -> None:
        """Refuse a server with replicas, of which only one would get a new adapter."""
        try:
            metrics = self._server.tell(partial(self._get, f"{self._root}/metrics"))
        except PolicyError:
            return  # Metrics are switched off.
        engines = set(re.findall(r'\bengine="(\d+)"', metrics))
        if len(engines) > 1:
            what = f"the server has {len(engines)} data-parallel replicas, of which a new adapter may reach only one"
            raise PolicyError(what, where=self._spec.spec, hint="start it without --data-parallel-size")

    def _check_logprobs(self, served: Served, probe: Ids, version: str) -> None:
        """Check that logprobs are under the temperature: at temperature 2, their differences halve."""
        ids = tuple(dict.fromkeys(probe))
        body = scoring_body(ids)
        found = []
        for temperature in (1.0, 2.0):
            (choice,) = self._complete(served.model, [probe], {**body, "temperature": temperature})
            values = scored(choice, ids)
            if values is None:
                what = f"this server (vLLM {version}) does not return the logprobs of requested tokens"
                raise PolicyError(what, where=self._spec.spec, hint="use vLLM 0.32 or newer")
            found.append([value - values[0] for value in values])
        plain, halved = (max(abs(one - factor * two) for one, two in zip(*found, strict=True)) for factor in (1.0, 2.0))
        if plain < halved:
            what = "the server's logprobs leave the temperature out"
            raise PolicyError(what, where=self._spec.spec, hint=f"start {_HOW}")

    def _load(self, name: str, adapter: Adapter) -> None:
        check_adapter(adapter, self._digest, self._base)
        body = {"lora_name": name, "lora_path": str(adapter.path.absolute())}
        try:
            self._server.tell(partial(self._post, "/load_lora_adapter", body), _about_adapters)
        except RejectedRequestError as error:
            # Another client has loaded these weights, as the name contains their digest.
            if "already been loaded" not in error.what:
                raise PolicyError(error.what, where=self._spec.spec, hint=f"start {_HOW}") from None
        except UnknownModelError as error:
            raise PolicyError(
                f"the adapter cannot be loaded: {error.what}",
                where=str(adapter.path),
                hint="set VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 for the server, and let it share this directory",
            ) from None

    def _unload(self, name: str) -> None:
        try:
            self._server.tell(partial(self._post, "/unload_lora_adapter", {"lora_name": name}), _about_adapters)
        except UnknownModelError:
            return  # The adapter is not loaded.

    def _post(self, path: str, body: object, timeout: float) -> bytes:
        return self._client.post(path, body=body, cast_to=httpx2.Response, options={"timeout": timeout}).content


def _about_adapters(fault: Fault) -> Fault:
    """Make a 500 about an adapter permanent: vLLM answers so to an invalid adapter, such as one of too high a rank."""
    if isinstance(fault.error, EndpointError) and re.search(r"\b500\b.*\blora", fault.error.what, re.IGNORECASE):
        hint = "start the server with a --max-lora-rank as high as the adapter's"
        return Fault(PolicyError(fault.error.what, where=fault.error.where, hint=hint))
    return fault
