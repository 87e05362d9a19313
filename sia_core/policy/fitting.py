"""An agent's model whose replies are limited to what its server has room for.

The limit that an agent asks for is lowered when the server refuses a request as too long, to the largest reply that
fits beside the prompt. Such a refusal costs nothing. The server's window is remembered, and later requests fit from
the start. The log of replies (`log`) is kept under the limit that was asked for, so a resumed run finds them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sia_core.domain.candidate import Adapter
from sia_core.domain.endings import LENGTH
from sia_core.domain.hashing import canonical_json
from sia_core.policy.dialect import Dialect
from sia_core.policy.protocol import Completion, Policy, RejectedRequestError, Request
from sia_core.policy.window import TooLongError

LEAST: Final = 256
"""Tokens below which a reply is of no use."""
_SPARE: Final = 64
"""Tokens that an estimate of a prompt may be wrong by, beside a tenth."""


class FittingPolicy:
    """A policy that lowers the limit of a reply to what fits."""

    def __init__(self, policy: Policy, say: Callable[[str], None], window: Callable[[], int | None] = lambda: None):
        """Wrap a policy.

        Args:
            say: receives the line that says that replies are shorter than asked for, once.
            window: asks the server for its window; None where the server does not say.
        """
        self._policy, self._say, self._ask_window = policy, say, window
        self.spec, self.digest = policy.spec, policy.digest
        self.trainable, self.concurrency = policy.trainable, policy.concurrency
        self._window: int | None = None
        self._longest: int | None = None
        self._density = 0.0
        """Prompt tokens per byte of the request, as counted by the server last."""
        self._said = False

    @property
    def dialect(self) -> Dialect | None:
        """Deviations of the server that the wrapped policy has learnt."""
        return getattr(self._policy, "dialect", None)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Implement `Policy.probe`."""
        return self._policy.probe(adapter)

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`.

        Raises:
            TooLongError: not even a reply of LEAST tokens fits; the message names window and prompt.
        """
        size = len(canonical_json([request.messages, request.tools]))
        limit = self._fitting(request.sampling.max_tokens, size)
        while True:
            try:
                completion = self._policy.sample(_with_limit(request, limit))
            except RejectedRequestError as error:
                if not isinstance(error, TooLongError):
                    raise
                limit = self._smaller(error, limit, size)
                continue
            if completion.prompt_tokens:
                self._density = completion.prompt_tokens / size
            full = completion.output_tokens >= limit and completion.finish in ("stop", "tool_calls")
            return replace(completion, finish=LENGTH) if full else completion

    def _fitting(self, asked: int, size: int) -> int:
        limit = min(asked, self._longest or asked)
        if self._window is None or not self._density:
            return limit
        room = self._window - int(size * self._density * 1.1) - _SPARE
        return min(limit, max(room, min(limit, LEAST)))

    def _smaller(self, error: TooLongError, limit: int, size: int) -> int:
        """Remember the server's limits; return the next limit to ask with."""
        told = error.limits
        self._window = told.window or self._window or self._ask_window()
        self._longest = told.reply or self._longest
        next_limit = limit // 2
        if told.reply:
            next_limit = told.reply
        elif self._window and told.prompt and told.exact:
            next_limit = self._window - told.prompt
            self._density = told.prompt / size
        elif self._window:
            next_limit = min(next_limit, self._window // 2)
        if next_limit >= limit:  # A server that refuses its own figures.
            next_limit = limit // 2
        least = min(limit, LEAST)
        if next_limit < least and limit > least and not (told.prompt and told.exact):
            next_limit = least
        if next_limit < least:
            raise self._no_room(error)
        self._tell(next_limit)
        return next_limit

    def _no_room(self, error: TooLongError) -> TooLongError:
        told = error.limits
        size = f"{'' if told.exact else 'at least '}{told.prompt:,}" if told.prompt else "an unknown number of"
        window = f"{self._window:,} tokens" if self._window else "a size that it does not name"
        what = f"the prompt takes {size} tokens, and the server's window of {window} leaves no room for a reply"
        hint = "start the server with a larger window (vLLM: --max-model-len, llama.cpp: -c), or use another model"
        return TooLongError(what, where=self.spec, hint=hint, limits=told)

    def _tell(self, limit: int) -> None:
        if not self._said:
            self._said = True
            room = "its server has no room for longer ones"
            if self._window or self._longest:
                named = f"a window of {self._window:,}" if self._window else f"replies of {self._longest:,} at most"
                room = f"its server has {named}"
            self._say(f"{self.spec}: replies are limited to {limit:,} tokens now, because {room}")


def _with_limit(request: Request, limit: int) -> Request:
    if limit == request.sampling.max_tokens:
        return request
    return replace(request, sampling=replace(request.sampling, max_tokens=limit))
