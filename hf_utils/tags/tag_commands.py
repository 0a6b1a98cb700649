"""Write predicted genres into the tags of your own music, so that it can be checked and undone.

    python -m hf_utils.tags plan runs/mymusic/predictions.csv     # writes runs/mymusic/tags.jsonl, and nothing else
    python -m hf_utils.tags show runs/mymusic/tags.jsonl          # what would change
    python -m hf_utils.tags apply runs/mymusic/tags.jsonl
    python -m hf_utils.tags verify runs/mymusic/tags.jsonl        # genres are as planned, the sound as before
    python -m hf_utils.tags undo runs/mymusic/tags.jsonl

Each file is replaced in one step by a copy with other tags, whose sound was compared to the last bit. The same command
continues after a kill. Exit codes: 0; 1 where a file was left out, with a line that says why; 2 for a mistake.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from hf_utils.errors import UserError
from hf_utils.launch import module_parser
from hf_utils.tags.tag_fields import TagError, open_tags
from hf_utils.tags.tag_journal import TagJournal, WrittenTag
from hf_utils.tags.tag_plan import PlannedTag, describe_problem, format_diff, make_plan, read_plan, write_plan
from hf_utils.tags.tag_rewrite import hash_decoded, read_taggable_state, rewrite_tags, sweep_leftover

_LEFT_OUT = "left out"


def plan_tags(args: argparse.Namespace) -> int:
    """Write down which file is to get which genre; change no file."""
    if not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min_confidence {args.min_confidence:g} is no probability: expected 0 to 1")
    output = args.output or args.predictions.with_name("tags.jsonl")
    if TagJournal(output).written:
        raise UserError(f"{output} was applied, and can be undone: undo it first, or choose another --output")
    plan = make_plan(
        args.predictions, music=args.music, min_confidence=args.min_confidence, replace=args.replace_genres
    )
    write_plan(output, plan.tags)
    for line in [*plan.notes, *plan.problems]:
        print(line, file=sys.stderr)
    kept = [f"  {count} left out: {reason}" for reason, count in plan.kept.items()]
    if plan.problems:
        kept.append(f"  {len(plan.problems)} left out: see above")
    if plan.num_changed:
        kept.append(f"  {plan.num_changed} changed since they were predicted: if their sound did, predict them again")
    print("\n".join([f"{_count(len(plan.tags))} planned: {output}", *kept]))
    return 1 if plan.problems else 0


def show_tags(args: argparse.Namespace) -> int:
    """Print what a plan changes."""
    tags = read_plan(args.plan)
    for tag in tags:
        print(format_diff(tag))
    genres = ", ".join(f"{count} {genre}" for genre, count in Counter(tag.new for tag in tags).most_common())
    replaced = sum(bool(tag.old) for tag in tags)
    print(f"{_count(len(tags))}: {genres or 'nothing to do'}; {replaced} with a genre that is replaced")
    return 0


def apply_tags(args: argparse.Namespace) -> int:
    """Write what a plan says into files that have not changed since."""
    tags, journal = read_plan(args.plan), TagJournal(args.plan)
    with journal.claim():
        outcomes = _for_each(tags, "Writing", lambda tag: _apply_tag(tag, journal))
    return _report(outcomes)


def _apply_tag(tag: PlannedTag, journal: TagJournal) -> str:
    sweep_leftover(tag.file)
    state, new, before = read_taggable_state(tag.file), tag.fields, journal.written.get(tag.file)
    if before and (before.state, before.new) == (state, new):
        return "tagged before"
    tags = open_tags(tag.file)
    if state != tag.state or tags.genres != tag.old:
        raise TagError("has changed since it was planned: plan it again")
    old = tags.fields
    rewrite_tags(tag.file, new, state, lambda after, sound: journal.add(WrittenTag(tag.file, after, old, new, sound)))
    return "tagged"


def verify_tags(args: argparse.Namespace) -> int:
    """Compare genres with a plan, and the sound with what it was before."""
    journal = TagJournal(args.plan)
    return _report(_for_each(read_plan(args.plan), "Verifying", lambda tag: _verify_tag(tag, journal)))


def _verify_tag(tag: PlannedTag, journal: TagJournal) -> str:
    found, written = open_tags(tag.file), journal.written.get(tag.file)
    if found.fields.genre != [tag.new]:
        raise TagError(f"has {_name(found.genres)}, not {tag.new}")
    if written is None or found.fields != tag.fields:
        raise TagError(f"has the genre {tag.new}, but not by this plan")
    if hash_decoded(tag.file) != written.sound:
        raise TagError("sounds different from before")
    return "as planned, sound unchanged"


def undo_tags(args: argparse.Namespace) -> int:
    """Give files the genre back that they had, or none."""
    journal = TagJournal(args.plan)
    if not journal.written:
        raise UserError(f"nothing to undo: {journal.path} tells of no file")
    with journal.claim():
        outcomes = _for_each([*journal.written.values()], "Undoing", _undo_tag)
        if not outcomes[_LEFT_OUT]:
            journal.forget_all()
    return _report(outcomes)


def _undo_tag(written: WrittenTag) -> str:
    sweep_leftover(written.file)
    state, tags = read_taggable_state(written.file), open_tags(written.file)
    if tags.fields == written.old:
        return "restored before"
    if tags.fields.genre not in (written.old.genre, written.new.genre):
        raise TagError(f"has {_name(tags.genres)} now, which is not of this plan")
    rewrite_tags(written.file, written.old, state, lambda *_: None)
    return "restored"


def _name(genres: Sequence[str]) -> str:
    return f"the genre {', '.join(genres)}" if genres else "no genre"


def _for_each(items: Sequence[PlannedTag | WrittenTag], title: str, act: Callable[..., str]) -> Counter:
    """Return how often each outcome of `act` came; a file that it leaves as it is gets one line."""
    outcomes = Counter()
    for item in (bar := tqdm(items, desc=title, unit="file", disable=None)):
        try:
            outcomes[act(item)] += 1
        except (TagError, OSError) as error:
            outcomes[_LEFT_OUT] += 1
            bar.write(describe_problem(item.file, error), file=sys.stderr)
    return outcomes


def _report(outcomes: Counter) -> int:
    """Print how many files had which outcome; return the exit code."""
    ordered = sorted(outcomes.items(), key=lambda item: item[0] == _LEFT_OUT)
    print(", ".join(f"{_count(number)} {outcome}" for outcome, number in ordered) or "0 files: nothing to do")
    return 1 if outcomes[_LEFT_OUT] else 0


def _count(number: int) -> str:
    return f"{number} file{'s' * (number != 1)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code. Raises UserError."""
    parser = module_parser("hf_utils.tags", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plan = commands.add_parser("plan", help=plan_tags.__doc__, description=plan_tags.__doc__)
    plan.set_defaults(run=plan_tags)
    plan.add_argument("predictions", type=Path, metavar="predictions.csv", help="written by --do_predict")
    plan.add_argument("--output", type=Path, metavar="PLAN", help="default: tags.jsonl beside the predictions")
    plan.add_argument("--music", type=Path, metavar="FOLDER", help="where the files are, if they have moved")
    plan.add_argument(
        "--min_confidence", type=float, default=0.0, metavar="P", help="leave out less probable genres (default: 0)"
    )
    plan.add_argument("--replace_genres", action="store_true", help="plan files that have a genre, too")
    for name, run in (("show", show_tags), ("apply", apply_tags), ("verify", verify_tags), ("undo", undo_tags)):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("plan", type=Path, metavar="PLAN", help="written by plan")
    args = parser.parse_args(argv)
    return args.run(args)
