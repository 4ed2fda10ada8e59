"""``shoal ask`` and ``shoal learn``: questions to a person, answers and edits taken in, and what follows from them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shoal.cli.flags import Command, OptionalPath, ResultPath
from shoal.cli.terminal import say
from shoal.errors import UserError
from shoal.progress import counted

if TYPE_CHECKING:
    from shoal.decisions.log import Decision
    from shoal.results.learning import Proposal
    from shoal.results.result import Result

SHOWN_FLOWS = 8


@dataclass(frozen=True)
class AskCommand(Command):
    """Write the questions whose answers are worth most, as a table to fill in for 'shoal learn'.

    An answer is the number or the name of a cluster, "new NAME", "none" (of the nearest clusters) or "nowhere"; leave
    it empty to skip the question. 'shoal review' asks the same questions on a page.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    n_questions: Annotated[int, tyro.conf.arg(aliases=("-n",), metavar="INT")] = 50
    """How many questions to ask."""
    out: Path = Path("questions.csv")
    """Table to write; an existing file is not overwritten."""

    def run(self) -> int:
        """Write them."""
        from shoal.results.answers import write_questions
        from shoal.results.learning import questions
        from shoal.results.result import Result
        from shoal.results.tables import check_free

        if self.n_questions < 1:
            raise UserError("there is nothing to ask: give a number of questions from 1 on.")
        check_free(self.out)
        result = Result.load(self.result)
        found = questions(result, self.n_questions, [])
        if not found:
            raise UserError("there is nothing left to ask: all images that a question would help with are answered.")
        write_questions(result, found, self.out)
        words = shlex.join(["shoal", "learn", str(self.result), str(self.out)])
        say(f"{counted(len(found), 'question')}: {self.out}\nfill in the column 'answer', then: {words}")
        return 0


@dataclass(frozen=True)
class LearnCommand(Command):
    """Take in answers or edits, and learn from what was said of single images. Dry run by default; undoable."""

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    file: Annotated[OptionalPath, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = None
    """Answers to 'shoal ask' (.csv), which are propagated to other images, or the export of an edited report (.json or
    .csv), which is applied as is. Without it, learn from all that has been said so far."""
    yes: bool = False
    """Keep it; otherwise only show what would change."""
    undo: bool = False
    """Take back the last decision: an edit, an answer, or what was learned."""

    def run(self) -> int:
        """Show what would change, or keep it."""
        from shoal.results.finish import rewrite
        from shoal.results.result import Result

        result = Result.load(self.result)
        if self.undo:
            if self.file is not None or self.yes:
                raise UserError("--undo takes no other options: give the result alone.")
            return _undo(result)
        is_behind = self.yes and result.tables_are_behind
        if is_behind:  # a command that was stopped has kept the decisions alone
            with result.folder.alone():
                result = Result.load(self.result)  # as nobody else changes it any more
                rewrite(result)
            say(f"completed    tables and report of {self.result}, which were behind the decisions")
        decisions, is_edited = _decisions(result, self.file)
        if is_edited and not decisions:
            if is_behind:
                return 0
            raise UserError(f"{self.file} says what the result says already: there is nothing to take in.")
        proposal = _proposal(result, decisions, is_edited=is_edited)
        say(_as_text(result, decisions, proposal))
        if not self.yes:
            words = ["shoal", "learn", str(self.result), *([str(self.file)] if self.file else []), "--yes"]
            say(f"nothing has been kept yet; to keep it: {shlex.join(words)}")
            return 0
        _keep(result, decisions, proposal)
        return 0


def _decisions(result: Result, file: Path | None) -> tuple[Sequence[Decision], bool]:
    """What a file says, and whether it was edited on a page."""
    from shoal.results.answers import read_answers
    from shoal.results.deciding import decisions_of
    from shoal.results.edited import read_edited

    if file is None:
        return [], False
    answers = read_answers(file, result) if file.suffix.lower() == ".csv" else None
    if answers is None:
        return decisions_of(read_edited(file), result), True
    if not answers:
        raise UserError(f"no question in {file} has been answered: fill in the column 'answer'.")
    return answers, False


def _proposal(result: Result, decisions: Sequence[Decision], *, is_edited: bool) -> Proposal | None:
    from shoal.results.deciding import replayed_with
    from shoal.results.learning import propose

    replayed = replayed_with(result, decisions)
    return None if is_edited else propose(result, replayed)


def _as_text(result: Result, decisions: Sequence[Decision], proposal: Proposal | None) -> str:
    lines = []
    if decisions:
        counts = Counter(each["do"] for each in decisions)
        moved = sum(len(each["images"]) for each in decisions if each["do"] in ("move", "new"))
        words = {
            "answer": counted(counts["answer"], "answer"),
            "new": counted(counts["new"], "new cluster"),
            "merge": f"{counted(sum(len(d['clusters']) for d in decisions if d['do'] == 'merge'), 'cluster')} merged",
            "rename": f"{counts['rename']} renamed",
            "move": f"{counted(moved, 'image')} moved",
        }
        lines.append(f"taken in     {', '.join(words[kind] for kind in words if counts[kind])}")
    if proposal is not None:
        lines.append(f"learned      {proposal.how}")
        lines.append(f"changed      {len(proposal.changed)} of {counted(len(result.table_ids), 'image')}")
        for source, target, n in proposal.flows[:SHOWN_FLOWS]:
            lines.append(f"  {n:>6}     {_named(result, source)} to {_named(result, target)}")
    return "\n".join(lines)


def _named(result: Result, cluster: int) -> str:
    if cluster < 0:
        return "nowhere"
    name = result.names.get(cluster, "")
    return f"{name} (cluster {cluster})" if name else f"cluster {cluster}"


def _keep(result: Result, decisions: Sequence[Decision], proposal: Proposal | None) -> None:
    from shoal.results.deciding import record
    from shoal.results.finish import rewrite
    from shoal.results.learning import accept

    with result.folder.alone():
        _check_unchanged(result)
        if decisions:
            result = record(result, decisions)
        if proposal is not None:
            result = accept(result, proposal)
        rewrite(result)
    say(f"kept; to take back the last of it: {shlex.join(['shoal', 'learn', str(result.folder.path), '--undo'])}")
    say(f"assignments  {result.folder.assignments_csv}")


def _check_unchanged(result: Result) -> None:
    """Raise a UserError if another process has changed the result since it was read, which may be minutes ago."""
    from shoal.results.result import Result

    now = Result.load(result.folder.path)
    before, after = (each.decided.size if each.decided else 0 for each in (result, now))
    if before != after or now.table_ids != result.table_ids:
        raise UserError(f"{result.folder.path} was changed meanwhile: run the command again.")


def _undo(result: Result) -> int:
    """Take back the last decision, without reading what was learned: that file may be damaged."""
    from shoal.decisions.log import OF_UPDATE, DecisionLog, effective
    from shoal.results.deciding import record
    from shoal.results.finish import rewrite
    from shoal.results.result import Result

    path = result.folder.path
    with result.folder.alone():
        steps, _ = DecisionLog(result.folder.decisions).read()
        if not any(step["do"] not in OF_UPDATE for step in effective(steps)):
            raise UserError(f"nothing has been decided about {path}: there is nothing to undo.")
        result = record(Result.load(path), [{"do": "undo"}])
        rewrite(result)
    assert result.decided is not None
    left = result.decided.replayed.n_decisions
    say(f"undone; {left} decision{' is' if left == 1 else 's are'} left\nassignments  {result.folder.assignments_csv}")
    return 0
