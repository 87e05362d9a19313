"""Logprobs of a batch's choices, pass by pass, in packs of contexts that share common beginnings.

- A pass is one forward over a trie of contexts (packing). A model that cannot read a trie exactly reads
  one context at a time, and `Forward.fallback` gives the reason. The model is tested on a few ids.
- Only contexts with a sampled token reach the output layer, a few rows at a time, and only the product of the
  gradient with the layer's weights is kept: memory does not grow with choices times vocabulary.
- A pass has at most `Forward.budget` tokens, from the memory that the model was measured to keep per token.

Suffixes: N choices of a pass, K contexts that choices were sampled in, V vocabulary, D hidden size,
U ids that any choice allowed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.checkpoint import checkpoint

from sia_core.weights.losses import choice_logprobs
from sia_core.weights.packing import Ids, Pack, pack
from sia_core.weights.rows import Choice
from sia_core.weights.value import ValueHead

TOKENS_PER_PASS: Final = 2048
"""Maximum tokens of a pass at any amount of memory: the last bits of results depend on the packs,
and should depend on the machine only where memory is short."""
LOGITS: Final = 1 << 24
"""Logits held at once."""
_SHARE = 0.5
"""Share of the available memory that a pass may keep."""
_PROBE: Final = ((1, 2, 3, 4), (1, 2, 4, 3), (2, 1))


@dataclass(frozen=True)
class Pass:
    """Results of one forward pass over N choices. The graph, where gradients are on, lives as long as the pass."""

    index: list[int]
    """Indices of the pass's choices in the batch."""
    logprob: torch.Tensor
    """Logprobs of the sampled ids, shape (N,), fp32."""
    entropy: torch.Tensor
    """Entropies of the distributions that the ids were sampled from, shape (N,), without gradient."""
    value: torch.Tensor | None
    """Values by the value head, shape (N,); None without a value head."""
    tokens: int
    """Number of ids fed to the model."""


class Forward:
    """Computes the logprobs of choices with a model."""

    def __init__(
        self, model: Any, temperature: float, *, head: ValueHead | None = None, budget: int | None = None
    ) -> None:
        """Test the model's capabilities.

        Args:
            model: a causal language model of transformers, or PEFT's wrapper of one.
            temperature: divisor of the logits.
            head: value head.
            budget: maximum tokens of a pass; None: TOKENS_PER_PASS, or less where memory is scarce now.
        """
        self._model, self._temperature, self._head = model, temperature, head
        self._plain = False
        training = model.training
        model.eval()  # No dropout while outputs are compared.
        self.fallback = _why_not_packed(model)
        """Reason for reading contexts one by one; None where contexts are packed."""
        self._plain = _is_plain(model)
        model.train(training)
        # Measured now: the first pass may be a reference's, with adapters off, which keeps nothing.
        self.budget = budget if budget is not None else self._affordable()
        """Maximum tokens of a pass; a longer context is read alone."""

    def passes(self, sequences: Sequence[Ids], choices: Sequence[Choice]) -> Iterator[Pass]:
        """Yield every choice once, in passes of bounded memory: call backward on one pass before taking the next."""
        choices_of = defaultdict(list)
        for at, choice in enumerate(choices):
            choices_of[choice.sequence].append(at)
        for part in pack(sequences, 0 if self.fallback else self.budget):
            index = [at for sequence in part.paths for at in choices_of[sequence]]
            yield self._read(part, index, [choices[at] for at in index])

    def _read(self, part: Pack, index: list[int], choices: Sequence[Choice]) -> Pass:
        nodes = [part.paths[choice.sequence][choice.position] for choice in choices]
        kept = sorted(set(nodes))
        row = {node: at for at, node in enumerate(kept)}
        row_N = self._tensor([row[node] for node in nodes])
        hidden_KD, logit_KV = _feed(self._model, part, kept, logits=not self._plain)
        if logit_KV is None:
            logprob_N, entropy_N = self._project(hidden_KD, row_N, choices)
        else:
            token_N = self._tensor([choice.token for choice in choices])
            allowed = [choice.allowed for choice in choices]
            logprob_N, entropy_N = choice_logprobs(logit_KV, row_N, token_N, allowed, self._temperature)
        value_N = self._head(hidden_KD)[row_N] if self._head is not None else None
        return Pass(index, logprob_N, entropy_N, value_N, len(part.ids))

    def _project(
        self, hidden_KD: torch.Tensor, row_N: torch.Tensor, choices: Sequence[Choice]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprob and entropy of every choice, through a plain output layer."""
        layer = self._model.get_output_embeddings()
        free = [at for at, choice in enumerate(choices) if choice.allowed is None]
        bound = [at for at, choice in enumerate(choices) if choice.allowed is not None]
        parts = []
        if free:
            token_N = self._tensor([choices[at].token for at in free])
            parts.append(
                _Picked.apply(hidden_KD, layer.weight, layer.bias, row_N[free], token_N, self._temperature)  # type: ignore[no-untyped-call]
            )
        if bound:
            parts += self._restricted(hidden_KD, layer, row_N[bound], [choices[at] for at in bound])
        back = self._tensor(free + bound).argsort()
        return torch.cat([logprob for logprob, _ in parts])[back], torch.cat([entropy for _, entropy in parts])[back]

    def _restricted(
        self, hidden_KD: torch.Tensor, layer: Any, row_N: torch.Tensor, choices: Sequence[Choice]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Compute only the columns that some choice allows, and again for the gradient instead of keeping them."""
        union = sorted({token for choice in choices for token in choice.allowed or ()})
        column = {token: at for at, token in enumerate(union)}
        weight_UD = layer.weight[self._tensor(union)]
        bias_U = layer.bias[self._tensor(union)] if layer.bias is not None else None
        size = max(1, LOGITS // len(union))
        for start in range(0, len(choices), size):
            some = choices[start : start + size]
            token_N = self._tensor([column[choice.token] for choice in some])
            allowed = [tuple(column[token] for token in choice.allowed or ()) for choice in some]

            def read(
                hidden_ND: torch.Tensor, token_N: torch.Tensor = token_N, allowed: list[Ids] = allowed
            ) -> tuple[torch.Tensor, torch.Tensor]:
                logit_NU = torch.nn.functional.linear(hidden_ND, weight_UD, bias_U)
                row_N = torch.arange(len(allowed), device=logit_NU.device)
                return choice_logprobs(logit_NU, row_N, token_N, allowed, self._temperature)

            yield checkpoint(read, hidden_KD[row_N[start : start + size]], use_reentrant=False)

    def _affordable(self) -> int:
        free = available_memory(self._model.device) * _SHARE
        return max(1, min(TOKENS_PER_PASS, int(free / max(self._bytes_per_token(), 1.0))))

    def _bytes_per_token(self) -> float:
        """Estimate the bytes that the model keeps for the backward pass of each token."""
        words = self._model.get_input_embeddings().weight.shape[0]
        part = next(pack([tuple(at % words for at in range(16))], 0))
        kept: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in self._model.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            alive = _feed(self._model, part, [0], logits=False)
        del alive
        wide = 0 if self._plain else 16 * self._model.get_output_embeddings().weight.shape[0]
        # The mask and the gradients of kept tensors need about as much again.
        return 2 * sum(kept.values()) / len(part.ids) + wide

    def _tensor(self, values: object) -> torch.Tensor:
        return torch.tensor(values, device=self._model.device)


class _Picked(torch.autograd.Function):
    """Logprobs of sampled ids and entropies, from hidden states, without keeping logits.

    With p = softmax(W h / T), the gradient of log p_t by h is (W_t - p W) / T. The product p W has the
    hidden state's size and is kept in place of p. The product leaves out the likeliest id m, which is added with
    an exact 1 - p_m, so that nothing cancels where p_m is near 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_KD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        row_N: torch.Tensor,
        token_N: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprob_N = torch.empty(len(row_N), device=hidden_KD.device)
        entropy_K = torch.empty(len(hidden_KD), device=hidden_KD.device)
        rest_KD = torch.empty_like(hidden_KD)
        top_K = torch.empty(len(hidden_KD), dtype=torch.long, device=hidden_KD.device)
        top_p_K, rest_p_K = torch.empty_like(entropy_K), torch.empty_like(entropy_K)
        size = max(1, LOGITS // len(weight_VD))
        for start in range(0, len(hidden_KD), size):
            here = slice(start, start + size)
            logit_CV = torch.nn.functional.linear(hidden_KD[here], weight_VD, bias_V).float()
            logprob_CV = torch.log_softmax(logit_CV.div_(temperature), -1)
            at = ((row_N >= start) & (row_N < start + size)).nonzero()[:, 0]
            logprob_N[at] = logprob_CV[row_N[at] - start, token_N[at]]
            p_CV = torch.exp(logprob_CV, out=logit_CV)
            entropy_K[here] = -torch.linalg.vecdot(p_CV, logprob_CV)
            if ctx.needs_input_grad[0]:
                top_p_K[here], top_K[here] = p_CV.max(-1)
                p_CV.scatter_(-1, top_K[here, None], 0.0)
                rest_p_K[here] = p_CV.sum(-1)
                rest_KD[here] = p_CV.to(weight_VD.dtype) @ weight_VD
        ctx.temperature = temperature
        ctx.save_for_backward(weight_VD, row_N, token_N, rest_KD, top_K, top_p_K, rest_p_K)
        entropy_N = entropy_K[row_N]
        ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight_VD, row_N, token_N, rest_KD, top_K, top_p_K, rest_p_K = ctx.saved_tensors
        grad_N = (grads[0] / ctx.temperature)[:, None]
        top_N = top_K[row_N]
        sure_N = (top_N == token_N)[:, None]
        own_ND = torch.where(sure_N, rest_p_K[row_N, None], 1.0) * weight_VD[token_N]
        top_ND = torch.where(sure_N, 0.0, top_p_K[row_N, None]) * weight_VD[top_N]
        change_ND = grad_N * (own_ND - top_ND - rest_KD[row_N])
        hidden_KD = torch.zeros(rest_KD.shape, device=rest_KD.device).index_add_(0, row_N, change_ND)
        return hidden_KD.to(rest_KD.dtype), None, None, None, None, None


def available_memory(device: torch.device) -> int:
    """Return the free bytes of a device; for the CPU, within the limit of this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _feed(model: Any, part: Pack, kept: Sequence[int], *, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the output layer's input at the nodes `kept`, shape (K, D), and if asked the logits, shape (K, V)."""
    found: list[torch.Tensor] = []

    def take(_: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor] | None:
        found.append(inputs[0][0])
        return None if logits else (inputs[0][:, :1].detach(),)

    hook = model.get_output_embeddings().register_forward_pre_hook(take)
    try:
        output = model(
            input_ids=torch.tensor([part.ids], device=model.device),
            position_ids=torch.tensor([part.depths], device=model.device),
            # A single sequence needs no mask.
            attention_mask=part.mask(model.dtype).to(model.device) if len(part.paths) > 1 else None,
            logits_to_keep=torch.tensor(kept, device=model.device),
            use_cache=False,
        )
    finally:
        hook.remove()
    return found[0], output.logits[0] if logits else None


@torch.no_grad()
def _is_plain(model: Any) -> bool:
    """Return True if a frozen linear layer alone maps hidden states to logits: no scale, no cap, no adapter."""
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or layer.weight.requires_grad:
        return False
    hidden_KD, logit_KV = _feed(model, next(pack(_PROBE[:1], 0)), [0, 1, 2, 3], logits=True)
    assert logit_KV is not None
    return bool(torch.allclose(layer(hidden_KD), logit_KV, rtol=1e-3, atol=1e-3))


@torch.no_grad()
def _why_not_packed(model: Any) -> str | None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds - {"full_attention"} or (window and not kinds):
        return f"not every layer sees the whole context: {', '.join(sorted(kinds)) or f'a window of {window}'}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention {config._attn_implementation!r} takes no mask of this kind"
    (part,) = pack(_PROBE, 99)
    try:
        _, packed_NV = _feed(model, part, range(len(part.ids)), logits=True)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"the model does not take a packed context: {error}"
    assert packed_NV is not None
    for index, ids in enumerate(_PROBE):
        _, alone_TV = _feed(model, next(pack([ids], 0)), range(len(ids)), logits=True)
        assert alone_TV is not None
        off = float((packed_NV[part.paths[index]] - alone_TV).abs().max() / alone_TV.abs().max())
        if not off <= max(1e-4, 4 * torch.finfo(alone_TV.dtype).eps):
            return f"packed and plain logits differ by {off:.1e} of the greatest"
    return None
