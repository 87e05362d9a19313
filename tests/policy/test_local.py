"""The local policy on a tiny model is exact and repeatable, and serves the given adapter."""

import itertools
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.base import adapter_digest
from sia_core.policy.local import LocalPolicy
from sia_core.policy.protocol import RejectedRequestError, Request
from sia_core.weights.spec import UpdateSpec
from sia_core.weights.trainer import Trainer
from tests.factories import ask

PROMPT = "Pick:"
OPTIONS = ["abc", "abd", "ab", "b", "xyz"]
SPEC = UpdateSpec(None, 1, 1, 0.01, 4, 1.0, 0)


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> LocalPolicy:
    return LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Two adapters with different, non-zero weights."""
    return [noisy_adapter(tiny_model, seed, tmp_path_factory.mktemp("adapter")) for seed in (1, 2)]


def noisy_adapter(base: Path, seed: int, folder: Path) -> Adapter:
    """An adapter with random weights."""
    trainer = Trainer(base, SPEC, None, threads=1)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer._parameters.values():
            parameter.normal_(std=0.2)
    return trainer.save(folder / "checkpoint", [])


def brute_force(policy: LocalPolicy, temperature: float) -> dict[str, float]:
    """Probability of each option: at each position, softmax over the tokens that lead to an option."""
    prompt = policy._encode(policy._prompt(ask(PROMPT))[0])
    sequences = {option: (*policy._encode(option), policy._ends[0]) for option in OPTIONS}
    result = {}
    for option, ids in sequences.items():
        chance = 1.0
        for at, token in enumerate(ids):
            allowed = sorted({other[at] for other in sequences.values() if other[:at] == ids[:at]})
            with torch.inference_mode():
                logits = policy._model(input_ids=torch.tensor([prompt + ids[:at]])).logits[0, -1]
            weights = {a: math.exp(float(logits[a]) / temperature) for a in allowed}
            chance *= weights[token] / sum(weights.values())
        result[option] = chance
    return result


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_choices_follow_the_restricted_softmax_exactly(policy: LocalPolicy, temperature: float) -> None:
    expected = brute_force(policy, temperature)
    assert sum(expected.values()) == pytest.approx(1)
    seen = {}
    for seed in range(300):
        done = policy.sample(ask(PROMPT, OPTIONS, seed=seed, temperature=temperature))
        assert done.logprobs is not None
        seen[done.text] = math.exp(sum(done.logprobs))
    for option, chance in seen.items():
        assert chance == pytest.approx(expected[option], rel=1e-4)
    assert len(seen) >= 2


def test_frequencies_follow_the_logprobs(policy: LocalPolicy) -> None:
    expected = brute_force(policy, 2.5)
    count = 3000
    picks = Counter(policy.sample(ask(PROMPT, OPTIONS, seed=seed, temperature=2.5)).text for seed in range(count))
    for option, chance in expected.items():
        assert abs(picks[option] - count * chance) < 4.5 * math.sqrt(count * chance * (1 - chance)) + 1


def test_forced_tokens_cost_nothing_and_are_marked(policy: LocalPolicy) -> None:
    done = next(
        done
        for seed in itertools.count()
        if (done := policy.sample(ask(PROMPT, OPTIONS, seed=seed, temperature=3.0))).text == "xyz"
    )
    assert done.allowed is not None
    assert done.logprobs is not None
    assert [len(ids or ()) for ids in done.allowed] == [3, 1, 1, 1]
    assert done.logprobs[1:] == (0.0, 0.0, 0.0)
    assert done.output_ids == (*policy._encode("xyz"), policy._ends[0])


def test_earlier_requests_change_no_reply(policy: LocalPolicy, tiny_model: Path) -> None:
    for other in ("a", "b", "longer prompt"):
        policy.sample(ask(other, OPTIONS))
    warm = [policy.sample(ask(PROMPT, OPTIONS, seed=seed)) for seed in range(5)]
    cold = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    assert warm == [cold.sample(ask(PROMPT, OPTIONS, seed=seed)) for seed in range(5)]
    assert cold.digest == policy.digest


def test_chat_records_what_it_sampled(policy: LocalPolicy) -> None:
    done = policy.sample(ask(PROMPT, max_tokens=12, seed=3))
    assert done.output_ids is not None
    assert done.logprobs is not None
    assert len(done.output_ids) == len(done.logprobs) <= 12
    assert done.finish == ("stop" if done.output_ids[-1] in policy._ends else "length")
    ids = torch.tensor([[*(done.prompt_ids or ()), *done.output_ids]])
    with torch.inference_mode():
        logprobs = torch.log_softmax(policy._model(input_ids=ids).logits[0], -1)
    start = len(done.prompt_ids or ()) - 1
    again = [float(logprobs[start + at, token]) for at, token in enumerate(done.output_ids)]
    assert again == pytest.approx(done.logprobs, abs=1e-4)
    assert policy.sample(ask(PROMPT, max_tokens=12, seed=3)) == done


def test_adapter_asked_for_is_the_adapter_served(policy: LocalPolicy, adapters: list[Adapter]) -> None:
    bare = policy.probe()
    first, second = (policy.probe(adapter) for adapter in adapters)
    assert len({bare, first, second}) == 3
    assert policy.probe(adapters[0]) == first
    assert policy.probe(None) == bare
    choice = policy.sample(ask(PROMPT, OPTIONS))
    with_adapter = policy.sample(ask(PROMPT, OPTIONS, adapter=adapters[0]))
    assert choice.logprobs != with_adapter.logprobs
    assert policy.sample(ask(PROMPT, OPTIONS)) == choice


def test_adapter_that_was_changed_or_is_of_another_base_is_refused(
    policy: LocalPolicy, adapters: list[Adapter], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(adapters[0].path, tmp_path / "moved"))
    with pytest.raises(PolicyError, match="expected " + "f" * 64):
        policy.probe(Adapter("f" * 64, moved))
    config = moved / "adapter_config.json"
    config.write_text(config.read_text().replace(policy.digest, "0" * 64))
    with pytest.raises(PolicyError, match="trained on base"):
        policy.probe(Adapter(adapter_digest(moved), moved))
    with pytest.raises(PolicyError, match="not an adapter"):
        policy.probe(Adapter("0" * 64, tmp_path / "nowhere"))


def test_more_adapters_than_are_kept_give_the_same_probes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sia_core.policy.local.ADAPTERS_KEPT", 2)
    policy = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    bare = policy.probe()
    made = [noisy_adapter(tiny_model, seed, tmp_path / str(seed)) for seed in range(4)]
    probes = [policy.probe(adapter) for adapter in made]
    assert len(set(probes)) == 4
    assert [policy.probe(adapter) for adapter in made] == probes
    assert policy.probe() == bare


def test_option_that_spells_out_an_end_token_is_text(policy: LocalPolicy) -> None:
    options = ["a", "a<|end|>", "a<|end|>b"]
    picked = {policy.sample(ask(PROMPT, options, seed=seed, temperature=5.0)).text for seed in range(200)}
    assert picked == set(options)


def test_two_options_that_are_the_same_are_refused(policy: LocalPolicy) -> None:
    with pytest.raises(PolicyError):
        policy.sample(ask(PROMPT, ["a", "a"]))
    with pytest.raises(PolicyError):
        policy.sample(ask(PROMPT, []))


HERMES = (
    "{% if tools %}tools: {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "assistant: "
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def with_template(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], LocalPolicy]]:
    """Makes a policy with that chat template."""
    made: list[LocalPolicy] = []

    def make(template: str) -> LocalPolicy:
        directory = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("template") / "model"))
        (directory / "chat_template.jinja").write_text(template)
        made.append(LocalPolicy("local", directory, threads=1))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def test_tools_and_their_results_are_rendered_by_the_template(with_template: Callable[[str], LocalPolicy]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = (
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    )
    done = with_template(HERMES).sample(Request(messages, ask("").sampling, 0, tools=(TOOL,)))
    assert f"tools: {json.dumps([TOOL])}" in done.prompt
    assert 'assistant: <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>tool: 2' in done.prompt


def test_tool_calls_in_a_reply_are_read(
    with_template: Callable[[str], LocalPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = with_template(HERMES)
    reply = 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    monkeypatch.setattr(policy, "_decode", lambda ids, special=False: reply)
    request = Request(ask("go").messages, ask("").sampling, 0, tools=(TOOL,))
    done = policy.sample(request)
    assert done.text == "I add."
    assert [(call.name, json.loads(call.arguments)) for call in done.tool_calls] == [("add", {"a": 1})]
    assert policy.sample(request).tool_calls == done.tool_calls
    assert policy.sample(ask("go")).text == reply
    reply = "<tool_call>{broken</tool_call>"
    done = policy.sample(request)
    assert (done.text, done.tool_calls) == (reply, ())


def test_tools_that_the_model_cannot_take_are_refused(
    policy: LocalPolicy, with_template: Callable[[str], LocalPolicy]
) -> None:
    request = Request(ask("go").messages, ask("").sampling, 0, tools=(TOOL,))
    with pytest.raises(RejectedRequestError, match="takes no tools"):
        policy.sample(request)
    with pytest.raises(RejectedRequestError, match="takes no tools"):
        policy.sample(Request(({"role": "tool", "content": "2"},), ask("").sampling, 0))
    with pytest.raises(RejectedRequestError, match="tool calls is unknown"):
        with_template("{{ tools }}{{ messages[0].content }}").sample(request)


@pytest.mark.parametrize("arguments", ["[" * 100_000, "{", "null", "", "\0", '{"a":' * 2000])
def test_malformed_tool_arguments_are_rejected_not_a_failure(
    with_template: Callable[[str], LocalPolicy], arguments: str
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    messages = ({"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]})
    for template in (HERMES, HERMES.replace("c.function |", "c.function.arguments.items() |")):
        request = Request(messages, ask("", max_tokens=2).sampling, 0, tools=(TOOL,))
        with suppress(RejectedRequestError):  # Anything else would count as the model's failure.
            with_template(template).sample(request)


def test_messages_that_the_template_does_not_take_are_refused(with_template: Callable[[str], LocalPolicy]) -> None:
    with pytest.raises(RejectedRequestError, match="no system"):
        with_template(HERMES).sample(Request(({"role": "system", "content": "x"},), ask("").sampling, 0))
