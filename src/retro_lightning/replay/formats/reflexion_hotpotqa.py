"""Behaviour half: Reflexion's text logs of a ReAct agent on HotPotQA, trial after trial.

A trial has a line ``Trial summary: Correct: c, Incorrect: i, Halted: h`` and sections of attempts:
``Question:``, for a retry ``Reflections:`` (what the agent had been told, a dash each), then
``Thought n:``, ``Action n:``, ``Observation n:`` and ``Correct answer:``. Correct answers bring
reward 1. The right answer is not kept: a policy must not see it.

An attempt that answers wrongly with its last step stands in two sections, incorrect and halted, and
is counted once, as incorrect. A question once answered is not tried again: later trials repeat the
text, and it is kept as that trial's attempt, so that success by trial is what the log says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from retro_lightning.replay.formats import draft
from retro_lightning.replay.formats.items import (
    Attempt,
    BadRecordError,
    Check,
    Item,
    Options,
    Reject,
    Remark,
)
from retro_lightning.replay.formats.source import Source
from retro_lightning.trajectory import Trajectory

_TRIAL = re.compile(r"BEGIN TRIAL (\d{1,9})\s*$")
_SUMMARY = re.compile(r"Trial summary: Correct: (\d+), Incorrect: (\d+), Halted: (\d+)")
_SECTION = re.compile(r"-+ BEGIN (CORRECT|INCORRECT|HALTED) AGENTS -+\s*$")
_RULE = re.compile(r"#{20,}\s*$")
_PART = re.compile(r"(Thought|Action|Observation) (\d+): ?(.*)", re.DOTALL)
_TOLD = re.compile(
    r"\s*You have attempted to answer following question before and failed\..*", re.S
)
_QUESTION, _ANSWER, _REFLECTIONS = "Question: ", "Correct answer: ", "Reflections:"
_STEP_LIMIT = 6
"""Reflexion's own limit of steps of an attempt."""


@dataclass
class _Block:
    """The lines of one attempt."""

    line: int
    section: str
    lines: list[str] = field(default_factory=list)


@dataclass
class _Trial:
    """What has been read of a trial."""

    number: int
    line: int
    told: tuple[int, ...] | None = None
    found: dict[str, int] = field(default_factory=dict)
    halted: list[int] = field(default_factory=list)
    repeated: int = 0
    questions: dict[str, tuple[int, Trajectory]] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        """Whether fewer attempts could be read than the summary counts."""
        return self.told is not None and sum(self.found.values()) < sum(self.told)


def read(source: Source, options: Options) -> Iterator[Item]:
    """Attempts in the file's order; after each trial, its summary beside what was found."""
    trials: list[_Trial] = []
    empty = True
    for entry in _entries(source):
        empty = empty and isinstance(entry, _Trial)
        if isinstance(entry, Reject):
            yield entry
        elif isinstance(entry, _Trial):
            if trials:
                yield from _closed(trials)
            trials.append(entry)
        elif not trials:
            yield Reject(entry.line, "there is an attempt before the first BEGIN TRIAL")
        else:
            yield from _attempt(entry, trials, source, options)
    if trials:
        yield from _closed(trials)
        yield from _missing(trials)
    if empty:
        yield Reject(0, "there is no attempt in it: is it a log of Reflexion's HotPotQA agent?")


def _entries(source: Source) -> Iterator[_Trial | _Block | Reject]:
    """Trials and attempts, each when its last line has been read."""
    trial: _Trial | None = None
    block: _Block | None = None
    section, bad = "", ""
    for number, line in source.lines():
        if isinstance(line, Reject):
            bad = bad or f"line {number}: {line.reason}"
            line = ""
        new_trial, new_section = _TRIAL.match(line), _SECTION.match(line)
        begins = line.startswith(_QUESTION) and section != ""
        if new_trial or new_section or begins or _RULE.match(line):
            if block is not None:
                yield Reject(block.line, bad) if bad else block
            block, bad = None, ""
        if new_trial:
            if trial is not None and trial.told is None:
                yield trial
            trial, section = _Trial(int(new_trial[1]), number), ""
        elif (summary := _SUMMARY.match(line)) and trial is not None and trial.told is None:
            trial.told = tuple(map(int, summary.groups()))
            yield trial
        elif new_section:
            section = new_section[1]
        elif begins:
            block = _Block(number, section)
        if block is not None:
            block.lines.append(line)
    if trial is not None and trial.told is None:
        yield trial
    if block is not None:
        yield Reject(block.line, bad) if bad else block


def _attempt(
    block: _Block, trials: list[_Trial], source: Source, options: Options
) -> Iterator[Item]:
    trial = trials[-1]
    try:
        question, made = _trajectory(block, trial.number, source, options)
    except BadRecordError as error:
        yield Reject(block.line, str(error))
        return
    earlier = trial.questions.get(question)
    if earlier is not None:
        if _same(earlier[1], made):
            yield Remark(
                block.line,
                f"trial {trial.number}: the attempt of line {earlier[0]} stands here again, as "
                f"{block.section.lower()}: it answered wrongly with its last step; counted once, "
                "as incorrect",
            )
        else:
            yield Reject(block.line, f"line {earlier[0]} is this trial's attempt at the question")
        return
    trial.questions[question] = (block.line, made)
    trial.found[block.section] = trial.found.get(block.section, 0) + 1
    if block.section == "HALTED":
        trial.halted.append(block.line)
    before = trials[-2].questions.get(question) if len(trials) > 1 else None
    trial.repeated += made.success and before is not None and _same(before[1], made)
    yield Attempt(block.line, made)


def _same(one: Trajectory, other: Trajectory) -> bool:
    """Whether two attempts differ in their number alone."""
    return replace(one, attempt=other.attempt) == other


def _trajectory(
    block: _Block, trial: int, source: Source, options: Options
) -> tuple[str, Trajectory]:
    head, parts = _parts(block)
    question, reflections = _head(head)
    count = len(parts) // 3
    right = block.section == "CORRECT"
    answered = parts[-1].startswith("Answer is ")
    if not answered and block.section != "HALTED":
        raise BadRecordError(f"the attempt is listed as {block.section.lower()} but has no answer")
    observations = ["", *parts[2::3]]
    made = draft.make_attempt(
        "reflexion_hotpotqa",
        source,
        options,
        draft.make_task(options.family or "hotpotqa", "", question),
        draft.free_steps(
            observations[:-1], parts[1::3], draft.last_reward(count, float(right)), parts[0::3]
        ),
        attempt=trial - 1,
        success=right,
        final_observation=observations[-1],
        truncation=None if answered else "task_limit" if count >= _STEP_LIMIT else "context_full",
        reflections=reflections,
    )
    return question, made


def _parts(block: _Block) -> tuple[list[str], list[str]]:
    """Lines before the first thought; then thought, action and observation of every step."""
    head: list[str] = []
    parts: list[str] = []
    names = ("Thought", "Action", "Observation")
    for line in block.lines:
        if line.startswith(_ANSWER):
            break
        match = _PART.match(line)
        expected = names[len(parts) % 3], str(len(parts) // 3 + 1)
        if match and (match[1], match[2]) == expected:
            parts.append(match[3])
        elif parts:
            parts[-1] += f"\n{line}"
        else:
            head.append(line)
    else:
        raise BadRecordError("the attempt has no line 'Correct answer:': it was cut short")
    if not parts or len(parts) % 3:
        missing = names[len(parts) % 3]
        raise BadRecordError(f"step {len(parts) // 3 + 1} has no line {missing!r}")
    return head, [part.strip() for part in parts]


def _head(lines: list[str]) -> tuple[str, list[str]]:
    """The question in single spaces, and the reflections."""
    body = "\n".join(lines).removeprefix(_QUESTION)
    question, _, told = body.partition(f"\n{_REFLECTIONS}")
    question = " ".join(_TOLD.sub("", question).split())
    if not question:
        raise BadRecordError("the question is empty")
    reflections: list[str] = []
    for line in told.strip("\n").split("\n") if told else []:
        if line.startswith("- ") or not reflections:
            reflections.append(line.removeprefix("- "))
        else:
            reflections[-1] += f"\n{line}"
    return question, [text for reflection in reflections if (text := reflection.strip())]


def _closed(trials: list[_Trial]) -> Iterator[Item]:
    """A trial's summary beside what was found, and what explains a difference."""
    trial = trials[-1]
    found = tuple(trial.found.get(name, 0) for name in ("CORRECT", "INCORRECT", "HALTED"))
    if trial.told is None:
        yield Remark(
            trial.line, f"trial {trial.number} has no summary line; found {_counts(found)}"
        )
        return
    what = f"trial {trial.number}: correct/incorrect/halted"
    yield Check(trial.line, what, _counts(trial.told), _counts(found))
    if trial.is_cut:
        yield Remark(
            trial.line,
            f"trial {trial.number}: the summary counts {sum(trial.told)} attempts, but "
            f"{sum(found)} can be read: the log was cut short, or attempts of it are rejected",
        )
    elif found[2] != trial.told[2]:
        lines = ", ".join(map(str, trial.halted))
        yield Remark(
            trial.line,
            f"trial {trial.number}: the summary counts {sum(trial.told)} attempts, "
            f"{trial.told[2]} of them halted, but {found[2]} halted ones are written out, at lines "
            f"{lines}; the log does not say which the summary left out; all are kept",
        )
    if trial.repeated:
        yield Remark(
            trial.line,
            f"trial {trial.number}: {trial.repeated} of {found[0]} correct attempts repeat the "
            "trial before word for word: questions once answered are not tried again; `replay "
            "dedupe` keeps the first of each",
        )


def _missing(trials: list[_Trial]) -> Iterator[Item]:
    every = dict.fromkeys(question for trial in trials for question in trial.questions)
    for trial in trials:
        for question in () if trial.is_cut else every:
            if question not in trial.questions:
                yield Remark(
                    trial.line,
                    f"trial {trial.number} has no attempt at {question[:80]!r}, which other "
                    f"trials have; its summary counts {sum(trial.told or ())} attempts as well",
                )


def _counts(numbers: tuple[int, ...]) -> str:
    return "/".join(map(str, numbers))
