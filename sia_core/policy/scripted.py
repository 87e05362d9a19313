"""`scripted`: a policy without a model, deterministic in the seed, for tests and dry runs."""

import random
from collections.abc import Sequence

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.hashing import digest_json
from sia_core.policy.protocol import Completion, Message, Request


class ScriptedPolicy:
    """Picks uniformly; replies with a number. Records no token ids, so it cannot be trained."""

    spec = "scripted"
    digest = digest_json("scripted/1")
    trainable = False
    concurrency = 64

    def sample(self, request: Request) -> Completion:
        """Pick an option uniformly, or write a short text, from the seed alone."""
        rng, prompt = random.Random(request.seed), render(request.messages)
        if request.options is not None:
            check_options(request.options)
            return Completion(rng.choice(request.options), prompt)
        return Completion(f"scripted reply {rng.randrange(1000)}", prompt)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Return an empty probe."""
        return ()


def render(messages: Sequence[Message]) -> str:
    """Messages as plain text."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def check_options(options: Sequence[str]) -> None:
    """Refuse empty option lists, and those with duplicates."""
    if not options or len(set(options)) < len(options):
        raise PolicyError(f"{len(options)} options, {len(set(options))} of them different", where="choose")
