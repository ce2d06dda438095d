"""What every command line promises: exit codes, one sentence, questions only where somebody can answer."""

import os
import pty
import subprocess
import sys

import click
import pytest
import yaml

from casam_fed.host.command_line import LazyGroup, confirmed, parsed_options

PROGRAM = """
import sys
import click
from casam_fed.host.command_line import confirmed, run_command
from casam_fed.errors import DataError

@click.command()
@click.argument("what")
def work(what):
    if what == "casam":
        raise DataError("the mask \\x1b[2J\\u202egone.png is empty; draw it")
    if what == "defect":
        raise ZeroDivisionError("ours")
    if what == "file":
        raise click.FileError("x.yaml", "no such file")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "ask":
        print("yes" if confirmed("Sure?") else "no")

run_command(work, "tool")
"""


def tool(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **how)


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (["done"], 0, ""),
        (["casam"], 1, "is empty; draw it"),
        (["file"], 1, "no such file"),
        ([], 2, "Missing argument"),
        (["done", "--what"], 2, "No such option"),
        (["interrupt"], 130, "tool: interrupted"),
    ],
)
def test_exit_codes_are_as_promised_and_nobody_sees_a_traceback(what, code, words):
    done = tool(*what)
    assert (done.returncode, words in done.stderr) == (code, True)
    assert "Traceback" not in done.stderr


def test_a_defect_of_ours_keeps_its_traceback():
    done = tool("defect")
    assert done.returncode == 1
    assert "ZeroDivisionError: ours" in done.stderr


def test_an_error_cannot_move_the_cursor():
    """The names in a sentence are those of files, and of what others sent."""
    assert tool("casam").stderr == "tool: the mask \\x1b[2J\\u202egone.png is empty; draw it\n"


@pytest.mark.parametrize("stdin", ["nobody", "closed"])
def test_a_question_that_nobody_can_answer_is_wrong_usage(stdin):
    how = {"stdin": subprocess.DEVNULL} if stdin == "nobody" else {"preexec_fn": lambda: os.close(0)}
    done = tool("ask", **how)
    assert done.returncode == 2
    assert "Sure? There is no terminal to ask at; give the answer as an option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("answer", "code", "words"), [(b"y\n", 0, "yes"), (b"n\n", 0, "no"), (b"\x04", 130, "")])
def test_a_person_at_a_terminal_is_asked(answer, code, words):
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = tool("ask", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert words in done.stdout


def test_options_are_yaml_values():
    options = ("a=1", "b=[x, y]", "c=0.5", "d=k=v", "e=")
    assert parsed_options(options) == {"a": 1, "b": ["x", "y"], "c": 0.5, "d": "k=v", "e": None}


@pytest.mark.parametrize("option", ["classes", "=x", "classes=[nucleus", "a=!!python/object/apply:os.getcwd []"])
def test_options_that_are_none_are_wrong_usage(option):
    with pytest.raises(click.UsageError, match="--set") as caught:
        parsed_options([option])
    assert not isinstance(caught.value, yaml.YAMLError)


def test_help_lists_commands_without_importing_them():
    group = LazyGroup(name="tool", lazy={"far": ("no.such.module:command", "Does it.")})
    assert "far  Does it." in group.get_help(click.Context(group))
    assert group.get_command(click.Context(group), "near") is None
    with pytest.raises(ModuleNotFoundError):
        group.get_command(click.Context(group), "far")


def test_confirmed_asks_nobody_under_a_script(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.UsageError):
        confirmed("Sure?")
