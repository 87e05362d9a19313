"""The model of a `LocalPolicy`: weights, adapters and forward passes.

Prompts, options and probes are read alone and then cached, so that other requests do not change them. Only
the last tokens of replies in progress are joined into one pass (`step`), in which PEFT applies each row's
adapter. A pass for each adapter takes about twice as long: with 3 adapters and none, 16 rows of
SmolLM2 in 0.9 s instead of 0.4 s on 2 cores.

Suffixes: B rows of a joined pass, N nodes of a tree of options, T positions, V vocabulary.
"""

import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import DynamicCache

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.adapter_files import refuse_missing_keys
from sia_core.policy.base import check_adapter
from sia_core.policy.local.cache import JOINED, fork, nbytes, new_cache, plain
from sia_core.policy.local.loading import load_base
from sia_core.policy.trie import Ids, Tree, trees

MEMO_ENTRIES: Final = 4096
PROMPT_BYTES: Final = 256 << 20
"""Memory for the caches of recent prompts."""
TREE_NODES: Final = 1024

Logits = Mapping[Ids, tuple[float, ...]]
"""Branching path of one (adapter, prompt, options) -> logits of the tokens allowed after the path."""


@dataclass(eq=False)
class Row:
    """A sequence in progress: the cache of the tokens read, and the token to read next."""

    adapter: Adapter | None
    cache: DynamicCache
    length: int
    """Tokens read."""
    token: int = -1


class Engine:
    """A causal language model on CPU or GPU. For one thread."""

    def __init__(self, base: Path, digest: str, *, joined: bool, kept: int) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = load_base(base).to(self.device).eval()
        self.config = self.model.config.get_text_config()
        self._bare = self.model
        self._base, self._digest, self._joined = base, digest, joined
        if joined:
            self._join(base)
        self._tree_nodes = TREE_NODES if plain(new_cache(self._bare.config)) else 1
        self._kept = kept
        self._loaded: OrderedDict[str, str] = OrderedDict()
        self._rows: weakref.WeakSet[Row] = weakref.WeakSet()
        self._prompts: OrderedDict[tuple[object, ...], tuple[DynamicCache, torch.Tensor]] = OrderedDict()
        self._prompt_bytes = 0
        self._memo: OrderedDict[tuple[object, ...], Logits] = OrderedDict()

    def begin(self, prompt: Ids, adapter: Adapter | None) -> tuple[Row, torch.Tensor]:
        """Read a prompt; return a row that continues the prompt, and the logits of the next token."""
        cache, logits_V = self._read(prompt, adapter)
        row = Row(adapter, fork(cache), len(prompt))
        self._rows.add(row)
        return row, logits_V

    def step(self, rows: Sequence[Row]) -> torch.Tensor:
        """Let each row read its next token; return logits [B, V]."""
        if self._joined:
            logits_BV = self._step_joined(rows)
        else:
            logits_BV = torch.stack([self._pass([row.token], row.adapter, row.cache)[0] for row in rows])
        for row in rows:
            row.length += 1
        return logits_BV

    def evaluate(self, prompt: Ids, paths: Mapping[Ids, Ids], adapter: Adapter | None) -> Logits:
        """Logits of the tokens that may follow each path after the prompt."""
        key = (_name(adapter), prompt, tuple(paths.items()))
        if key in self._memo:
            self._memo.move_to_end(key)
            return self._memo[key]
        self._memo[key] = logits = self._compute(prompt, paths, adapter)
        if len(self._memo) > MEMO_ENTRIES:
            self._memo.popitem(last=False)
        return logits

    def score(self, ids: Ids, adapter: Adapter | None) -> tuple[float, ...]:
        """Logprob of each token except the first, given the tokens before it."""
        logits_TV = self._pass(ids, adapter, new_cache(self._bare.config), keep=len(ids))
        logprob_TV = torch.log_softmax(logits_TV.float(), -1)
        return tuple(float(logprob_TV[at, token]) for at, token in enumerate(ids[1:]))

    def _compute(self, prompt: Ids, paths: Mapping[Ids, Ids], adapter: Adapter | None) -> Logits:
        if not paths:
            return {}
        cache, logits_V = self._read(prompt, adapter)
        ends: dict[Ids, torch.Tensor] = {(): logits_V}
        for tree in trees(paths, self._tree_nodes):
            logits_NV = self._read_tree(tree, len(prompt), fork(cache), adapter)
            ends |= {path: logits_NV[node] for path, node in tree.ends.items()}
        return {path: tuple(ends[path][list(ids)].double().tolist()) for path, ids in paths.items()}

    def _read(self, prompt: Ids, adapter: Adapter | None) -> tuple[DynamicCache, torch.Tensor]:
        """Return the prompt's cache, which must not be changed, and the logits of the next token."""
        key = (_name(adapter), prompt)
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        cache = new_cache(self._bare.config)
        self._prompts[key] = read = cache, self._pass(prompt, adapter, cache)[0]
        self._prompt_bytes += nbytes(cache)
        while len(self._prompts) > 1 and self._prompt_bytes > PROMPT_BYTES:
            _, (oldest, _) = self._prompts.popitem(last=False)
            self._prompt_bytes -= nbytes(oldest)
        return read

    def _read_tree(self, tree: Tree, start: int, cache: DynamicCache, adapter: Adapter | None) -> torch.Tensor:
        """Return the logits after each node, which sees the prompt and the nodes on its own path."""
        if tree.chain:
            return self._pass(tree.tokens, adapter, cache, keep=len(tree.tokens))
        size = len(tree.tokens)
        seen_NN = torch.eye(size, dtype=torch.bool)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                seen_NN[node] |= seen_NN[parent]
        hidden_NT = torch.cat([torch.zeros(size, start, dtype=torch.bool), ~seen_NN], -1)
        # A mask added to the scores, which every kind of attention accepts.
        mask = torch.zeros(1, 1, size, start + size).masked_fill_(hidden_NT, torch.finfo(torch.float32).min)
        positions = torch.tensor([[start + depth for depth in tree.depths]])
        return self._pass(
            tree.tokens,
            adapter,
            cache,
            keep=size,
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
        )

    def _pass(
        self, ids: Sequence[int], adapter: Adapter | None, cache: DynamicCache, keep: int = 1, **how: Any
    ) -> torch.Tensor:
        """Read tokens of one sequence alone; return the logits after the last `keep` tokens."""
        with self._using(adapter) as model:
            result = model(
                input_ids=torch.tensor([list(ids)], device=self.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=keep,
                **how,
            )
        logits_TV: torch.Tensor = result.logits[0]
        return logits_TV

    def _step_joined(self, rows: Sequence[Row]) -> torch.Tensor:
        """Read all rows in one pass; the rows of one adapter stand together."""
        order = sorted(range(len(rows)), key=lambda index: _name(rows[index].adapter) or "")
        placed = [rows[index] for index in order]
        names = ["__base__" if row.adapter is None else self._load(row.adapter) for row in placed]
        try:
            result = self.model(
                input_ids=torch.tensor([[row.token] for row in placed], device=self.device),
                position_ids=torch.tensor([[row.length] for row in placed], device=self.device),
                use_cache=False,
                joined_caches=[row.cache for row in placed],
                **({"adapter_names": names} if self._loaded else {}),
            )
        except BaseException:
            self._drop_hooks()
            raise
        place = {index: at for at, index in enumerate(order)}
        logits_BV: torch.Tensor = result.logits[[place[index] for index in range(len(rows))], -1]
        return logits_BV

    def _drop_hooks(self) -> None:
        """Remove the hooks that PEFT leaves after a failed pass, which would choose the adapters of the next pass."""
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                hooked: Any = module
                hooked._forward_pre_hooks.clear()

    def _join(self, base: Path) -> None:
        model = self._bare
        if not model._supports_attention_backend or model.config._attn_implementation != "sdpa":
            raise PolicyError(
                f"{type(model).__name__} cannot be sampled in batches", where=str(base), hint="serve it with batch=1"
            )
        model.set_attn_implementation(JOINED)

    def _using(self, adapter: Adapter | None) -> AbstractContextManager[Any]:
        """Context in which the model uses an adapter, or no adapter."""
        if adapter is None:
            return nullcontext(self._bare) if not self._loaded else _Disabled(self.model)
        name = self._load(adapter)
        self.model.set_adapter(name)
        return nullcontext(self.model)

    def _load(self, adapter: Adapter) -> str:
        if adapter.digest in self._loaded:
            self._loaded.move_to_end(adapter.digest)
            return self._loaded[adapter.digest]
        check_adapter(adapter, self._digest, self._base)
        # The name contains the digest, so a name always means the same weights.
        name = f"sha_{adapter.digest[:24]}"
        with refuse_missing_keys(adapter.path):
            if not isinstance(self.model, PeftModel):
                self.model = PeftModel.from_pretrained(self._bare, adapter.path, adapter_name=name).eval()
            else:
                self.model.load_adapter(adapter.path, adapter_name=name)
        # PEFT warns when it deletes the active one.
        self.model.set_adapter(name)
        self._loaded[adapter.digest] = name
        self._evict()
        return name

    def _evict(self) -> None:
        """Drop the least recently used adapters, except those that a row uses."""
        busy = {_name(row.adapter) for row in self._rows}
        newest = next(reversed(self._loaded))
        for digest in list(self._loaded):
            if len(self._loaded) > self._kept and digest not in busy and digest != newest:
                self.model.delete_adapter(self._loaded.pop(digest))


class _Disabled:
    """Context in which all adapters are switched off."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._context: Any = None

    def __enter__(self) -> Any:
        self._context = self._model.disable_adapter()
        self._context.__enter__()
        return self._model

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)


def _name(adapter: Adapter | None) -> str | None:
    return adapter.digest if adapter else None
