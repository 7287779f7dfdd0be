"""KV-cached turns against the policy's own evaluation of what came out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import tiny
from retro_lightning.policy.batch import collate
from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.session import Session
from retro_lightning.rollout.writing import sample
from retro_lightning.trajectory import Step, Trajectory

MENUS = (tiny.ACTIONS, ("go",), ("turn left", "turn right"), ("a b c", "a b d", "a c"), ("x", "x"))


def play(
    policy: Policy, lengths: list[int], rows: int, *, record: bool = False, greedy: bool = False
) -> list[Trajectory]:
    """Episodes of given lengths in fewer rows; a row that ends takes the next episode."""
    session = Session(policy, rows, record_distribution=record)
    waiting = [(number, length) for number, length in enumerate(lengths)]
    seats: dict[int, tuple[Trajectory, int, list[Step], np.random.Generator]] = {}
    done: dict[int, Trajectory] = {}
    while waiting or seats:
        for row in range(rows):
            if row not in seats and waiting:
                number, length = waiting.pop(0)
                script = tiny.trajectory(number, length)
                session.start(row, script.task)
                seats[row] = (script, number, [], np.random.default_rng(number))
        order = sorted(seats, reverse=True)
        menus = [MENUS[(seats[r][1] + len(seats[r][2])) % len(MENUS)] for r in order]
        contexts = [
            policy.transcript.context(
                seats[r][0].steps[len(seats[r][2])].observation,
                seats[r][0].task,
                first=not seats[r][2],
            )
            for r in order
        ]
        tries = [policy.transcript.trie(menu) for menu in menus]
        choices = session.act(
            order, contexts, tries, [None if greedy else seats[r][3] for r in order]
        )
        for row, choice, menu in zip(order, choices, menus, strict=True):
            script, number, steps, _ = seats[row]
            steps.append(
                Step(
                    observation=script.steps[len(steps)].observation,
                    valid_actions=menu,
                    action=menu[choice.number],
                    reward=0.0,
                    log_prob=choice.log_prob,
                    log_probs=choice.log_probs,
                    generation=choice.generation,
                )
            )
            if len(steps) == len(script.steps):
                done[number] = dataclasses.replace(
                    script, steps=tuple(steps), tokenizer=policy.transcript.fingerprint
                )
                del seats[row]
                session.stop(row)
    return [done[number] for number in range(len(lengths))]


LENGTHS = [5, 1, 9, 3, 14, 2, 7]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_recorded_log_probs_and_values_are_those_of_training(
    kind: str, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retro_lightning.rollout.session._SMALL_TREE", 99 if ahead else -1)
    policy = tiny.policy(kind)
    trajectories = play(policy, LENGTHS, rows=3)
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    with torch.no_grad():
        now = policy.evaluate(batch)
    mask = batch.steps_BS
    torch.testing.assert_close(
        batch.behaviour_logprobs_BS[mask], now.logprobs_BS[mask], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        batch.recorded_values_BS[mask], now.values_BS[mask], atol=1e-4, rtol=0
    )
    assert float(now.logprobs_BS.min()) < -0.5  # there was something to agree on


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_recorded_ids_are_those_the_transcript_makes_from_the_text(kind: str) -> None:
    policy = tiny.policy(kind)
    for exact in play(policy, [4, 2], rows=2):
        textual = dataclasses.replace(exact, tokenizer=None)
        ours, theirs = policy.transcript.encode(exact), policy.transcript.encode(textual)
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_array_equal(ours.decision_position, theirs.decision_position)


def test_stored_distribution_is_the_recomputed_one_and_sums_to_one() -> None:
    policy = tiny.policy()
    for trajectory in play(policy, [6, 3], rows=2, record=True):
        for step, again in zip(trajectory.steps, policy.action_log_probs(trajectory), strict=True):
            assert step.log_probs is not None
            assert step.valid_actions is not None
            np.testing.assert_allclose(step.log_probs, again, atol=1e-4)
            assert np.exp(step.log_probs).sum() == pytest.approx(1.0, abs=1e-12)
            assert step.log_prob == pytest.approx(
                step.log_probs[step.valid_actions.index(step.action)], abs=1e-9
            )


def test_looking_ahead_and_descending_make_the_same_choices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("retro_lightning.rollout.session._SMALL_TREE", -1)
    policy = tiny.policy()
    ahead = play(policy, LENGTHS, rows=4, record=True)
    descended = play(policy, LENGTHS, rows=2)
    for a, b in zip(ahead, descended, strict=True):
        assert [step.action for step in a.steps] == [step.action for step in b.steps]


def test_greedy_takes_the_best_child_at_every_decision() -> None:
    policy = tiny.policy()
    trajectories = play(policy, [5], rows=1, greedy=True)
    encoded = policy.transcript.encode(trajectories[0])
    batch = collate([encoded], trajectories)
    with torch.no_grad():
        best = policy.evaluate(batch).logprobs_BS.sum()
    for d in range(len(encoded.chosen)):
        for other in range(int(np.diff(encoded.children_indptr)[d])):
            batch.chosen_D[d] = other
            with torch.no_grad():
                assert policy.evaluate(batch).logprobs_BS.sum() <= best + 1e-6
        batch.chosen_D[d] = int(encoded.chosen[d])


def test_training_mode_is_left_as_it_was_and_dropout_is_off_in_between() -> None:
    policy = tiny.policy("gpt2")
    quiet = play(policy, [3], rows=1)
    policy.train()
    assert play(policy, [3], rows=1) == quiet
    assert policy.training
    assert policy.lm.training


def test_sampling_inverts_the_cumulative_distribution() -> None:
    # 3 outcomes with p = 0.2, 0, 0.8: u < 0.2 gives 0, u >= 0.2 gives 2, never the impossible 1.
    rng = np.random.default_rng(0)
    draws = np.array([sample(np.log([0.2, 1e-300, 0.8]), rng) for _ in range(4000)])
    assert set(draws) == {0, 2}
    # Standard error sqrt(0.16 / 4000) = 0.0063; four of them.
    assert np.mean(draws == 0) == pytest.approx(0.2, abs=0.0253)

    class Zero:
        def random(self) -> float:
            return 0.0

    with np.errstate(divide="ignore"):
        assert sample(np.log([0.0, 1.0]), Zero()) == 1  # type: ignore[arg-type]
