"""Distributions over valid actions against a scorer with one forward pass per candidate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import naive
import tiny
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy import scores
from retro_lightning.policy.actions import ActionDistribution, TrieConstrained
from retro_lightning.policy.batch import collate
from retro_lightning.policy.conditioning import LearnedTaskEmbedding
from retro_lightning.policy.evaluation import Evaluation
from retro_lightning.policy.language_model import LoraSettings, PretrainedLM
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import (
    PointwiseMutualInformation,
    ScoredTrie,
    SequenceScore,
    TokenMean,
    WordMean,
)
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.trie import TokenTrie
from retro_lightning.policy.value_head import ValueHead
from retro_lightning.policy.written import Trained
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.rollout.session import Session
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv

DISTRIBUTIONS: dict[str, Callable[[], ActionDistribution]] = {
    "uniform_prior": lambda: TrieConstrained(uniform_prior=True),
    **{
        kind.kind: kind for kind in (SequenceScore, TokenMean, WordMean, PointwiseMutualInformation)
    },
}
WHOLE = [name for name in DISTRIBUTIONS if name != "uniform_prior"]
# Prefixes of one another, non-ASCII text, different numbers of words and tokens.
MENU = ("go", "go on", "go on north", "turn left", "né à l'est", "pick up the key")


def policy_of(name: str, kind: str = "llama", tokenizer: str = "bytes", **kwargs) -> Policy:
    tok = tiny.TOKENIZERS[tokenizer]()
    head = ValueHead(32)
    torch.nn.init.constant_(head.output.weight, 0.3)
    model = tiny.language_model(kind, len(tok), **kwargs)
    return Policy(model, tok, value_head=head, distribution=DISTRIBUTIONS[name]()).eval()


def evaluate(policy: Policy, trajectories: list[Trajectory]) -> Evaluation:
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    return policy.evaluate(batch)


def oracle(policy: Policy, trajectory: Trajectory, number: int) -> torch.Tensor:
    kind = policy.distribution.kind
    if kind == "trie_constrained":
        return naive.trie_constrained(policy, trajectory, number, uniform_prior=True)
    return naive.whole(policy, trajectory, number, kind)


@pytest.mark.parametrize("tokenizer", ["bytes", "words"])
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_equals_a_forward_pass_per_candidate_with_its_gradient(
    name: str, kind: str, tokenizer: str
) -> None:
    policy = policy_of(name, kind, tokenizer)
    trajectories = [tiny.trajectory(0, 2, actions=MENU), tiny.trajectory(1, 3, actions=MENU[1:])]
    ours = evaluate(policy, trajectories)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    entropies = torch.zeros(2, 3, dtype=torch.float64)
    for row, trajectory in enumerate(trajectories):
        full = policy.action_log_probs(trajectory)
        for number, step in enumerate(trajectory.steps):
            every = oracle(policy, trajectory, number)
            np.testing.assert_allclose(full[number], every.detach(), atol=1e-4)
            assert np.exp(full[number]).sum() == pytest.approx(1.0, abs=1e-12)
            expected[row, number] = every[step.valid_actions.index(step.action)]
            entropies[row, number] = -(every.exp() * every).sum()
            if policy.distribution.whole:  # one decision a step, rows one after the other
                decision = len(trajectories[0].steps) * row + number
                table = ours.child_logprobs_DC[decision, : len(every)].detach()
                np.testing.assert_allclose(table, every.detach(), atol=1e-4)
    torch.testing.assert_close(ours.logprobs_BS.double(), expected, atol=1e-4, rtol=0)
    weights = torch.arange(6.0).view(2, 3) - 1.5  # no symmetry in which errors could cancel
    if policy.distribution.whole:  # of a trie's walk the entropy is that of the nodes visited
        torch.testing.assert_close(ours.entropies_BS.double(), entropies, atol=1e-4, rtol=0)
        gradients(policy, (ours.entropies_BS * weights).sum(), (entropies * weights).sum())
    gradients(policy, (ours.logprobs_BS * weights).sum(), (expected * weights).sum())


def gradients(policy: Policy, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Both have the same gradient, to 1e-4 of the largest part."""
    parameters = [p for p in policy.lm.parameters() if p.requires_grad]
    one = torch.autograd.grad(ours, parameters, retain_graph=True)
    two = torch.autograd.grad(theirs.float(), parameters, retain_graph=True)
    scale = max(float(g.abs().max()) for g in two)
    assert scale > 0
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_rollouts_and_training_agree(kind: str, name: str) -> None:
    policy = policy_of(name, kind)
    menus = [MENU, ("go",), ("turn left", "turn right"), ("x", "y", "x")]
    acted = [
        tiny.acted(policy, tiny.trajectory(seed, 3, actions=menu), seed)
        for seed, menu in enumerate(menus)
    ]
    batch = collate(policy.transcript.encode_many(acted), acted)
    with torch.no_grad():
        now = policy.evaluate(batch)
    for recorded, again in (
        (batch.behaviour_logprobs_BS, now.logprobs_BS),
        (batch.recorded_values_BS, now.values_BS),
    ):
        torch.testing.assert_close(recorded, again, atol=1e-4, rtol=0)
    assert now.logprobs_BS[1].tolist() == [0.0] * 3
    assert float(now.logprobs_BS.min()) < -0.5


@pytest.mark.parametrize("count", [1, 2, 500])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_from_one_to_five_hundred_candidates(name: str, count: int) -> None:
    policy = policy_of(name)
    pieces = [f"{a} {b} {c}" for a in tiny.WORDS for b in tiny.WORDS for c in tiny.WORDS]
    menu = tuple(pieces[i * len(pieces) // count] for i in range(count))
    trajectory = tiny.trajectory(0, 2, actions=menu)
    with torch.no_grad():
        [_, every] = policy.action_log_probs(trajectory)
        ours = float(evaluate(policy, [trajectory]).logprobs_BS[0, 1])
    taken = menu.index(trajectory.steps[1].action)
    assert ours == pytest.approx(every[taken], abs=1e-4)
    assert np.exp(every).sum() == pytest.approx(1.0, abs=1e-12)
    if count > 2:  # five hundred forward passes take too long; differences of a few will do
        few = [taken, 0, 77, 499]
        part = tiny.trajectory(0, 2, actions=menu)
        scores_K = [naive_score(policy, part, menu[k]) for k in few]
        if policy.distribution.whole:
            np.testing.assert_allclose(
                every[few] - every[few[0]], np.array(scores_K) - scores_K[0], atol=1e-4
            )


def naive_score(policy: Policy, trajectory: Trajectory, action: str) -> float:
    """Score before the softmax: the log-probability relative to any other action's."""
    kind, ids = policy.distribution.kind, naive.candidate(policy, action)
    with torch.no_grad():
        score = float(naive.sequence(policy, naive.prefix(policy, trajectory, 1), ids))
        if kind == "pmi":
            bare = policy.tokenizer.encode("\nAction:", add_special_tokens=False)
            score -= float(naive.sequence(policy, bare, ids))
    divisor = {"token_mean": len(ids), "word_mean": len(action.split())}
    return score / divisor.get(kind, 1)


@pytest.mark.parametrize("name", WHOLE)
def test_many_logits_are_computed_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(name)
    trajectories = [tiny.trajectory(0, 2, actions=MENU), tiny.trajectory(1, 1, actions=MENU)]
    found = []
    for most in (1 << 24, 300 * 7):  # all at once; seven positions of 300 logits at a time
        monkeypatch.setattr(scores, "_MOST_LOGITS", most)
        policy.zero_grad()
        evaluation = evaluate(policy, trajectories)
        (evaluation.logprobs_BS.sum() + evaluation.entropies_BS.sum()).backward()
        gradients = [parameter.grad.clone() for parameter in policy.lm.parameters()]
        found.append((evaluation.logprobs_BS.detach(), *gradients))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_padding_adds_nothing_and_takes_nothing() -> None:
    for name in WHOLE:
        policy = policy_of(name, "gpt2")
        trajectories = [tiny.trajectory(s, 1 + 2 * s, actions=MENU[s:]) for s in range(3)]
        with torch.no_grad():
            together = evaluate(policy, trajectories)
            for row, trajectory in enumerate(trajectories):
                alone = evaluate(policy, [trajectory])
                steps = len(trajectory.steps)
                for field in ("logprobs_BS", "entropies_BS", "values_BS"):
                    padded = getattr(together, field)[row]
                    torch.testing.assert_close(
                        padded[:steps], getattr(alone, field)[0], atol=1e-4, rtol=0
                    )
                    assert (padded[steps:] == 0).all()


def test_the_uniform_prior_makes_every_action_equally_likely_under_equal_logits() -> None:
    # 1 2 | 1 3 | 1 4 | 5: under equal logits the trie gives 1/6, 1/6, 1/6, 1/2; with the logarithm
    # of the leaves below (3 below token 1, 1 below token 5) it gives 1/4 each.
    for prior, probs in ((False, [1 / 6, 1 / 6, 1 / 6, 1 / 2]), (True, [1 / 4] * 4)):
        trie = TokenTrie([(1, 2), (1, 3), (1, 4), (5,)], 9, uniform_prior=prior)
        tables = []
        for number, children in enumerate(trie.children):
            logits = trie.prior[number] if prior else np.zeros(len(children))
            tables.append(logits - np.log(np.exp(logits).sum()))
        np.testing.assert_allclose(np.exp(trie.log_probs(tables)), probs)


def test_the_example_of_the_documentation() -> None:
    # docs/distributions.md: tokens go 1, stop 2, north 3, south 4, end 9.
    ids = [(1, 3), (1, 4), (2,)]
    texts = ["go north", "go south", "stop"]
    chance = {(): {1: 0.6, 2: 0.3}, (1,): {3: 0.1, 4: 0.1}, (2,): {9: 0.9}}
    certain = {(1, 3): {9: 1.0}, (1, 4): {9: 1.0}}
    found = {}
    for name, made in {"default": TrieConstrained, **DISTRIBUTIONS}.items():
        trie = made().trie(texts, ids, end=9, bare=np.array([0], dtype=np.int32))
        if isinstance(trie, ScoredTrie):
            prefix = {
                -1: (),
                **{s: tuple(trie.tree_tokens[m]) for s, m in enumerate(trie.tree_mask)},
            }
            logs = [
                np.log({**chance, **certain}[prefix[slot]][token])
                for slot, token in zip(trie.edge_slot, trie.edge_token, strict=True)
            ]
            sums = np.bincount(trie.member_candidate, np.array(logs)[trie.member_edge])
            weights = np.exp(sums / trie.divisors)
            found[name] = weights / weights.sum()
        else:
            tables = []
            for number, children in enumerate(trie.children):
                path = next(p for p in trie.paths if number in p.nodes)
                before = tuple(path.ids[: path.offsets[list(path.nodes).index(number)]])
                weights = np.array([chance[before][token] for token in children])
                weights *= np.exp(trie.prior[number]) if trie.prior else 1.0
                tables.append(np.log(weights / weights.sum()))
            found[name] = np.exp(trie.log_probs(tables))
    for name, probs in {
        "default": [1 / 3, 1 / 3, 1 / 3],
        "uniform_prior": [0.4, 0.4, 0.2],
        "sequence": [0.06 / 0.39, 0.06 / 0.39, 0.27 / 0.39],
        "token_mean": [0.300, 0.300, 0.399],  # 0.3915, 0.3915, 0.5196 of 1.3026
        "word_mean": [0.322, 0.322, 0.355],  # 0.2449, 0.2449, 0.27 of 0.7599
    }.items():
        np.testing.assert_allclose(found[name], probs, atol=6e-4)
    p, q = found["default"], found["sequence"]
    assert (p * np.log(p / q)).sum() == pytest.approx(0.272, abs=5e-4)


def test_a_policy_that_knows_nothing_begins_uniform_under_the_prior() -> None:
    policy = policy_of("uniform_prior")
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.zero_()
    trajectory = tiny.trajectory(0, 1, actions=MENU)
    np.testing.assert_allclose(np.exp(policy.action_log_probs(trajectory)[0]), 1 / len(MENU))
    taken = evaluate(policy, [trajectory]).logprobs_BS.item()
    assert taken == pytest.approx(-np.log(len(MENU)), abs=1e-6)


def test_greedy_takes_the_most_probable_action_where_actions_are_whole() -> None:
    policy = policy_of("sequence")
    trajectory = tiny.trajectory(3, 1, actions=MENU)
    [every] = policy.action_log_probs(trajectory)
    session = Session(policy, 1, record_distribution=True)
    session.start(0, trajectory.task)
    context = policy.transcript.context(
        trajectory.steps[0].observation, trajectory.task, first=True
    )
    [choice] = session.act([0], [context], [policy.transcript.trie(MENU)], [None])
    assert choice.number == int(np.argmax(every))
    np.testing.assert_allclose(choice.log_probs, every, atol=1e-4)


def test_actions_that_go_beyond_the_context_are_no_accident() -> None:
    for name in ("uniform_prior", "sequence"):
        whole = policy_of(name, "gpt2")
        tokens = len(whole.transcript.encode(tiny.trajectory(0, 1, actions=MENU[:1])).tokens)
        short = policy_of(name, "gpt2", context=tokens)
        trajectory = tiny.trajectory(0, 1, actions=MENU)
        trajectory = replace(trajectory, steps=(replace(trajectory.steps[0], action="go"),))
        with torch.no_grad():
            assert evaluate(short, [trajectory]).logprobs_BS.isfinite().all()
        [every] = short.action_log_probs(trajectory)
        assert np.exp(every).sum() == pytest.approx(1.0)


def test_logits_that_are_not_finite_are_reported() -> None:
    policy = policy_of("sequence")
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits are not finite"):
        policy.action_log_probs(tiny.trajectory(0, 1))


class Own(SequenceScore):
    kind = "own"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_policy_is_loaded_with_the_distribution_it_was_saved_with(
    name: str, tmp_path: Path
) -> None:
    policy = policy_of(name)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy").eval()
    assert type(again.distribution) is type(policy.distribution)
    trajectories = [tiny.trajectory(0, 2, actions=MENU)]
    with torch.no_grad():
        one, two = evaluate(policy, trajectories), evaluate(again, trajectories)
        assert torch.equal(one.logprobs_BS, two.logprobs_BS)
        other = Policy.load(tmp_path / "policy", distribution=TrieConstrained()).eval()
        assert not torch.allclose(evaluate(other, trajectories).logprobs_BS, one.logprobs_BS)


def test_a_distribution_that_is_not_ours_is_passed_by_hand(tmp_path: Path) -> None:
    lm, tokenizer = tiny.language_model("llama", 300), tiny.tokenizer()
    Policy(lm, tokenizer, value_head=ValueHead(32), distribution=Own()).save(tmp_path / "policy")
    with pytest.raises(ValueError, match="names a 'own', which is not one of ours"):
        Policy.load(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy", distribution=Own())
    assert isinstance(again.distribution, Own)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", ["sequence", "pmi"])
def test_whole_actions_behind_a_soft_prompt(name: str, kind: str) -> None:
    policy = policy_of(name, kind)
    model = policy.lm
    prompt = LearnedTaskEmbedding(["tiny"]).build(model.get_input_embeddings().weight, seed=1)
    with torch.no_grad():
        prompt.vectors.mul_(5.0)
    prompted = Policy(
        model,
        policy.tokenizer,
        value_head=policy.value_head,
        distribution=policy.distribution,
        soft_prompt=prompt,
    ).eval()
    scripted = tiny.trajectory(0, 3, actions=MENU)
    acted = tiny.acted(prompted, scripted)
    batch = collate(prompted.transcript.encode_many([acted, scripted]), [acted, scripted])
    with torch.no_grad():
        now, without = prompted.evaluate(batch), policy.evaluate(batch)
    for recorded, again in (
        (batch.behaviour_logprobs_BS, now.logprobs_BS),
        (batch.recorded_values_BS, now.values_BS),
    ):
        torch.testing.assert_close(recorded[0], again[0], atol=1e-4, rtol=0)
    for number, every in enumerate(prompted.action_log_probs(scripted)):
        taken = MENU.index(scripted.steps[number].action)
        assert float(now.logprobs_BS[1, number]) == pytest.approx(every[taken], abs=1e-4)
    assert (now.logprobs_BS - without.logprobs_BS).abs().max() > 0.1


def test_whole_actions_with_adapters_and_gradient_checkpointing(tmp_path: Path) -> None:
    tiny.language_model("llama", 300).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    found = []
    for checkpointing in (False, True):
        source = PretrainedLM(
            str(tmp_path), lora=LoraSettings(rank=2), gradient_checkpointing=checkpointing
        )
        policy = Policy.build(source, None, distribution=SequenceScore(), seed=1)
        evaluate(policy, [tiny.trajectory(0, 2, actions=MENU)]).logprobs_BS.sum().backward()
        found.append([p.grad for p in policy.lm.parameters() if p.requires_grad])
    assert any(grad.abs().sum() > 0 for grad in found[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trained", ["all", "action", "thought"])
def test_whole_actions_beside_thoughts_and_free_text(trained: Trained) -> None:
    plain = tiny.policy("gpt2")
    policy = Policy(
        plain.lm,
        plain.tokenizer,
        value_head=plain.value_head,
        distribution=SequenceScore(),
        text=TextSampling(thought_tokens=3),
        trained=trained,
    ).eval()
    scripted = tiny.trajectory(0, 3, actions=MENU)
    first, second, third = scripted.steps
    steps = (
        replace(first, thought="left, I think"),
        replace(second, valid_actions=None, action="the red key", thought="two"),
        replace(third, valid_actions=None, action="near"),
    )
    scripted = replace(scripted, steps=steps)
    encoded = policy.transcript.encode(scripted)
    tokens = encoded.tokens.tolist()
    with torch.no_grad():
        every_TV = policy.lm(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        before = tokens[: encoded.action_positions[0] + 1]
        scores = [naive.sequence(policy, before, naive.candidate(policy, a)) for a in MENU]
        expected = np.zeros(3)
        if trained != "thought":
            expected[0] = torch.stack(scores).log_softmax(0)[MENU.index(first.action)]
        for step, position, token in zip(
            encoded.text_step, encoded.text_position, encoded.text_token, strict=True
        ):
            expected[step] += float(every_TV[position, token])
        ours = evaluate(policy, [scripted]).logprobs_BS[0]
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    make = functools.partial(CorridorEnv, length=9)  # and in rollouts, with thoughts
    jobs = [Job(task, 0) for task in make_tasks("corridor", make, "train", 3)]
    acted = list(collect(policy, {"corridor": make}, jobs, run="run", seed=1))
    batch = collate(policy.transcript.encode_many(acted), acted)
    with torch.no_grad():
        now_BS = policy.evaluate(batch).logprobs_BS
    mask = batch.steps_BS
    assert all(step.thought is not None for t in acted for step in t.steps)
    torch.testing.assert_close(now_BS[mask], batch.behaviour_logprobs_BS[mask], atol=1e-4, rtol=0)
