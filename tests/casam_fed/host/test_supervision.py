"""Children that die, hang, leave grandchildren or lose their supervisor: real processes, real signals."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from casam_fed.errors import SupervisionError
from casam_fed.host import supervision
from casam_fed.host.processes import free_port, port_holder
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT, Child, Supervisor, end_leftovers, is_running

SLEEPS = "import time; time.sleep(300)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
)


def python(name: str, program: str, *arguments: object, ready: Callable[[], bool] | None = None, **env: str) -> Child:
    return Child(name, (sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)), env, ready)


def polite(name: str, notes: Path, seconds: float = 0) -> Child:
    """A child that notes its start, every SIGINT, and SIGTERM, after which it takes its time to end."""
    program = """
        import pathlib, signal, sys, time
        def note(what):
            with open(sys.argv[2], "a") as file:
                file.write(f"{sys.argv[1]} {what}\\n")
        def end(*_):
            note("asked to end")
            time.sleep(float(sys.argv[3]))
            note("ended")
            sys.exit()
        signal.signal(signal.SIGINT, lambda *_: note("interrupted"))
        signal.signal(signal.SIGTERM, end)
        note("started")
        while True:
            time.sleep(60)
    """
    return python(name, program, name, notes, seconds, ready=lambda: f"{name} started" in text(notes))


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def until(true: Callable[[], object], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(true())


def alive(folder: Path) -> set[int]:
    """Return the living processes that carry the folder's mark."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CASAM_SUPERVISED") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def tend_until(supervisor: Supervisor, true: Callable[[], object], seconds: float = 10) -> bool:
    def tended() -> object:
        supervisor.tend()
        return true()

    return until(tended, seconds)


def _hearing_hangups() -> None:
    """What started these tests may ignore SIGHUP, as nohup does, and that is inherited."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextlib.contextmanager
def owner(folder: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """A process that supervises `children` in the folder until it is ended, as a command line does."""
    script = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_supervision import *
folder = Path({str(folder)!r})
{textwrap.dedent(program)}
try:
    with Supervisor(children, folder, lambda sentence: print(sentence, flush=True)) as supervisor:
        print("up", flush=True)
        while True:
            supervisor.tend()
            time.sleep(0.05)
except SupervisionError as error:
    sys.exit(str(error))
except KeyboardInterrupt:
    time.sleep(0.2)
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hearing_hangups,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A supervisor's folder, of which nothing lives on after the test, whatever the test finds out."""
    home = tmp_path.resolve() / "home"
    yield home
    for pid in alive(home):
        os.kill(pid, signal.SIGKILL)


def test_what_dies_is_started_again_later_each_time_without_blocking_its_owner(folder, tmp_path):
    said: list[str] = []
    starts = tmp_path / "starts"
    program = "import sys, time; open(sys.argv[1], 'a').write(f'{time.time()}\\n'); sys.exit(3)"
    slowest = 0.0
    with Supervisor([python("link", program, starts)], folder, said.append) as supervisor:
        end = time.monotonic() + 10
        while text(starts).count("\n") < 4 and time.monotonic() < end:
            before = time.monotonic()
            supervisor.tend()
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.02)
        assert supervisor.pid("link") is None or until(lambda: supervisor.pid("link") is None)
    times = [float(moment) for moment in text(starts).split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [round(gap, 1) >= wanted for gap, wanted in zip(gaps, (0.5, 1, 2), strict=True)] == [True] * 3
    assert sum(gaps) < 6
    log = folder / "logs" / "link.log"
    assert said[:3] == [
        f"link ended with exit code 3; it is started again in {delay} s; its log is {log}"
        for delay in ("0.5", "1", "2")
    ]
    # Starting a process takes some milliseconds; a sleep would take 500.
    assert slowest < 0.3


def test_delays_double_up_to_the_longest_and_begin_anew_after_a_long_life(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "_FIRST_DELAY_S", 0.1)
    monkeypatch.setattr(supervision, "_SETTLED_S", 1.0)
    said: list[str] = []
    lives_long = tmp_path / "lives-long"
    program = "import pathlib, sys, time; time.sleep(1.2 if pathlib.Path(sys.argv[1]).exists() else 0)"
    child = replace(python("link", program, lives_long), longest_delay_s=0.4)
    with Supervisor([child], folder, said.append) as supervisor:
        assert tend_until(supervisor, lambda: len(said) == 4)
        lives_long.touch()
        assert tend_until(supervisor, lambda: len(said) == 5)
    assert [sentence.split(" in ")[1].split(" s;")[0] for sentence in said] == ["0.1", "0.2", "0.4", "0.4", "0.1"]


def test_what_was_killed_is_started_again_and_the_signal_is_named(folder):
    said: list[str] = []
    with Supervisor([python("link", SLEEPS), python("other", SLEEPS)], folder, said.append) as supervisor:
        first, other = supervisor.pid("link"), supervisor.pid("other")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert tend_until(supervisor, lambda: supervisor.pid("link") not in (None, first))
        assert supervisor.pid("other") == other
    assert len(said) == 1
    assert said[0].startswith("link was ended by SIGKILL; it is started again in 0.5 s; its log is ")
    assert alive(folder) == set()


def test_what_a_dead_child_has_started_ends_before_the_child_is_started_again(folder):
    """It would hold the port, or the database, that the next one needs."""
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); time.sleep(300)"
    with Supervisor([python("link", program)], folder, print) as supervisor:
        assert until(lambda: len(alive(folder)) == 2)
        before = alive(folder)
        os.kill(supervisor.pid("link") or 0, signal.SIGKILL)
        assert tend_until(supervisor, lambda: len(alive(folder) - before) == 2)
        assert not alive(folder) & before


def test_a_program_that_vanished_is_tried_again_like_one_that_died(folder, tmp_path):
    said: list[str] = []
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    with Supervisor([Child("link", (str(program),), {})], folder, said.append) as supervisor:
        assert until(lambda: supervisor.pid("link") is None)
        program.unlink()
        assert tend_until(supervisor, lambda: len(said) == 2)
    assert said[1].startswith(
        "link cannot be started: no such file or directory; it is started again in 1 s; its log is "
    )


def test_a_restart_that_was_asked_for_waits_for_nothing(folder, monkeypatch):
    monkeypatch.setattr(supervision, "_GRACE_S", 0.5)
    said: list[str] = []
    log = folder / "logs" / "deaf.log"
    children = [python("link", SLEEPS), python("deaf", STUBBORN, ready=lambda: "deaf" in text(log).splitlines())]
    with Supervisor(children, folder, said.append) as supervisor:
        first = {name: supervisor.pid(name) for name in ("link", "deaf")}
        supervisor.restart("link")
        assert tend_until(supervisor, lambda: supervisor.pid("link") not in (None, first["link"]), 0.4)
        supervisor.restart("deaf")
        assert tend_until(supervisor, lambda: supervisor.pid("deaf") not in (None, first["deaf"]), 2)
    assert said == [
        f"{name} is started again as asked; its log is {folder}/logs/{name}.log" for name in ("link", "deaf")
    ]


def test_children_start_one_after_the_other_and_stop_in_reverse(folder, tmp_path):
    notes = tmp_path / "notes"
    with Supervisor([polite("link", notes), polite("gateway", notes)], folder, print):
        assert text(notes).splitlines() == ["link started", "gateway started"]
    told = [f"{name} {what}" for name in ("gateway", "link") for what in ("asked to end", "ended")]
    assert text(notes).splitlines()[2:] == told


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            f"print('port 9 is taken', flush=True); {SLEEPS}",
            "link was not ready within 0.5 s: port 9 is taken; its log is",
        ),
        ("import sys; sys.exit('no key')", "link ended with exit code 1 while starting: no key; its log is"),
        (SLEEPS, "link was not ready within 0.5 s: it wrote nothing; its log is"),
    ],
    ids=["hangs", "ends", "hangs silently"],
)
def test_a_child_that_does_not_get_ready_ends_the_start_and_all_children(folder, monkeypatch, program, message):
    monkeypatch.setattr(supervision, "_READY_S", 0.5)
    children = [python("first", SLEEPS), python("link", program, ready=lambda: False), python("last", SLEEPS)]
    with pytest.raises(SupervisionError, match=message), Supervisor(children, folder, print):
        pytest.fail("it must not start")
    assert alive(folder) == set()
    assert not (folder / "logs" / "last.log").exists()
    assert not is_running(folder)


def test_a_missing_program_is_told_and_ends_all_children(folder):
    children = [python("first", SLEEPS), Child("link", ("no-such-program",), {})]
    with (
        pytest.raises(SupervisionError, match="link cannot be started: no such file or directory; its log is"),
        Supervisor(children, folder, print),
    ):
        pytest.fail("it must not start")
    assert alive(folder) == set()


def test_stopping_slow_children_takes_little_longer_than_the_slowest(folder, tmp_path):
    notes = tmp_path / "notes"
    with Supervisor([polite(name, notes, 2.0) for name in "abc"], folder, print):
        begun = time.monotonic()
    assert time.monotonic() - begun < 2 + 2 * 1 + 0.9
    assert text(notes).count(" ended") == 3


def test_what_does_not_end_in_time_is_killed_with_all_it_has_started(folder, tmp_path, monkeypatch):
    """Also what has left its session, and what outlives a parent that ended politely."""
    monkeypatch.setattr(supervision, "_GRACE_S", 1.0)
    monkeypatch.setattr(supervision, "_REST_S", 0.5)
    program = f"""
        import subprocess, sys, time
        for apart in (False, True):
            subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=apart)
    """
    deaf = textwrap.dedent(program) + STUBBORN
    soft = textwrap.dedent(program) + "time.sleep(300)"
    with Supervisor([python("deaf", deaf), python("soft", soft)], folder, print):
        assert until(lambda: text(folder / "logs" / "deaf.log").count("deaf\n") == 3)
        assert until(lambda: text(folder / "logs" / "soft.log").count("deaf\n") == 2)
        assert len(alive(folder)) == 6
        begun = time.monotonic()
    assert alive(folder) == set()
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_the_first_signal_stops_everything_in_good_order_and_later_ones_do_not_cut_it_short(folder, tmp_path, number):
    """The signals go to the whole process group, as from a terminal: no child may hear them."""
    notes = tmp_path / "notes"
    children = f"children = [polite(name, Path({str(notes)!r}), 1.0) for name in ('link', 'gateway')]"
    with owner(folder, children) as process:
        assert line(process) == "up"
        os.killpg(process.pid, number)
        assert until(lambda: "gateway asked to end" in text(notes))
        for other in (signal.SIGINT, signal.SIGTERM, number):
            os.killpg(process.pid, other)
            time.sleep(0.05)
        assert until(lambda: "link ended" in text(notes))
        os.killpg(process.pid, number)
        assert process.wait(10) == 130
    assert sorted(text(notes).splitlines()) == sorted(
        f"{name} {what}" for name in ("link", "gateway") for what in ("started", "asked to end", "ended")
    )
    assert alive(folder) == set()


def test_a_signal_while_starting_leaves_nothing_behind(folder):
    children = "children = [python('link', SLEEPS), python('slow', SLEEPS, ready=lambda: False)]"
    with owner(folder, children) as process:
        assert until(lambda: len(alive(folder)) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
    assert alive(folder) == set()


def test_the_way_out_after_a_signal_is_not_cut_short_by_another():
    program = """
        import time
        from casam_fed.host.signals import stop_on_signals
        try:
            with stop_on_signals():
                try:
                    print("up", flush=True)
                    time.sleep(60)
                finally:
                    print("stopping", flush=True)
                    time.sleep(0.3)
        except KeyboardInterrupt:
            print("on its way out", flush=True)
            time.sleep(0.3)
            print("done", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert line(process) == "up"
        process.terminate()
        for moment in ("stopping", "on its way out"):
            assert line(process) == moment
            process.send_signal(signal.SIGINT)
        assert line(process) == "done"
    assert process.returncode == 0


def test_an_error_of_the_owner_stops_the_children_and_gives_the_signals_back(folder):
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def fail() -> None:
        with Supervisor([python("link", SLEEPS)], folder, print):
            inside.append(signal.getsignal(signal.SIGTERM))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside[0] is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert alive(folder) == set()


@pytest.mark.parametrize("ready", ["None", "lambda: False"], ids=["running", "starting"])
def test_what_a_killed_supervisor_left_is_ended_by_the_next_start(folder, ready):
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); time.sleep(300)"
    with owner(folder, f"children = [python('link', {program!r}), python('slow', SLEEPS, ready={ready})]") as process:
        assert until(lambda: len(alive(folder)) == 3)
        process.kill()
        process.wait()
    left = alive(folder)
    assert len(left) == 3
    said: list[str] = []
    with Supervisor([python("link", SLEEPS)], folder, said.append) as supervisor:
        assert alive(folder) == {supervisor.pid("link")}
        assert supervisor.pid("link") not in left
    assert said == ["ended 3 processes that an earlier start had left behind"]


def test_what_a_killed_supervisor_left_can_be_ended_without_a_start(folder):
    with owner(folder, "children = [python('link', SLEEPS)]") as process:
        assert line(process) == "up"
        with pytest.raises(SupervisionError, match="run by another process"):
            end_leftovers(folder)
        assert len(alive(folder)) == 1
        process.kill()
        process.wait()
    end_leftovers(folder)
    assert alive(folder) == set()


def test_foreign_processes_are_never_taken_for_leftovers(folder, tmp_path):
    """Not one whose number stands in the lock file, nor one of a folder whose name begins alike, nor the owner's own."""
    folder.mkdir()
    command = [sys.executable, "-c", SLEEPS]
    marks = ({}, {"CASAM_SUPERVISED": f"{folder}-2"}, {"CASAM_SUPERVISED": ""})
    with contextlib.ExitStack() as stack:
        foreign = [stack.enter_context(subprocess.Popen(command, env={**os.environ, **mark})) for mark in marks]
        for process in foreign:
            stack.callback(process.kill)
        for content in (str(foreign[0].pid).encode(), b"\xff\x00 no number", b"", b"-1"):
            (folder / "supervisor.lock").write_bytes(content)
            with Supervisor([python("link", SLEEPS)], folder, print):
                pass
        assert [process.poll() for process in foreign] == [None] * 3


def test_a_second_supervisor_is_refused_and_harms_nothing(folder):
    assert not is_running(folder)
    with Supervisor([python("link", SLEEPS)], folder, print) as supervisor:
        with owner(folder, "children = [python('link', SLEEPS)]") as second:
            assert second.wait(10) == 1
            assert second.stderr is not None
            refusal = f"{folder} is run by another process already (pid {os.getpid()}); end that first"
            assert second.stderr.read().strip() == refusal
        assert alive(folder) == {supervisor.pid("link")}
        assert is_running(folder)
    assert not is_running(folder)


def test_logs_are_appended_private_and_say_when_a_child_started(folder):
    log = folder / "logs" / "link.log"
    log.parent.mkdir(parents=True)
    log.touch(mode=0o644)
    for _ in range(2):
        child = python("link", f"import sys; print('out'); print('err', file=sys.stderr, flush=True); {SLEEPS}")
        with Supervisor([child], folder, print):
            assert until(lambda: text(log).endswith("err\n"))
    lines = text(log).splitlines()
    assert [said.split("started")[0] for said in lines if said.startswith("===")] == ["=== link "] * 2
    assert lines.count("err") == 2
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_log_never_fills_the_disk_although_its_child_never_ends(folder, monkeypatch):
    monkeypatch.setattr(supervision, "_LOG_BYTES", 100_000)
    program = """
        import itertools, time
        for number in itertools.count():
            print(f"{number:09}" * 100, flush=True)
            time.sleep(0.0005)
    """
    log, older = folder / "logs" / "link.log", folder / "logs" / "link.log.1"
    sizes = set()
    with Supervisor([python("link", program)], folder, print) as supervisor:
        first = supervisor.pid("link")
        end = time.monotonic() + 2
        while time.monotonic() < end:
            supervisor.tend()
            sizes.add(log.stat().st_size)
            time.sleep(0.02)
        assert supervisor.pid("link") == first
    assert 50_000 < max(sizes) < 400_000
    assert older.stat().st_size == 100_000
    assert older.stat().st_mode & 0o777 == 0o600
    # Neither holes nor lines out of order: the child went on at the new end of the file it has open.
    kept = older.read_bytes() + log.read_bytes()
    assert b"\0" not in kept
    numbers = [int(row[:9]) for row in log.read_text().splitlines() if len(row) == 900]
    assert numbers == sorted(numbers)
    assert int(older.read_text().splitlines()[-1][:9]) < numbers[0]


def test_a_child_phones_nowhere_and_finds_the_programs_of_its_python(folder):
    log = folder / "logs" / "link.log"
    program = f"import json, os; print(json.dumps(dict(os.environ)), flush=True); {SLEEPS}"
    child = python("link", program, FLWR_HOME="/there", FLWR_TELEMETRY_ENABLED="1")
    with Supervisor([child], folder, print):
        assert until(lambda: text(log).endswith("}\n"))
    environment = json.loads(text(log).splitlines()[-1])
    assert PRIVATE_ENVIRONMENT.items() <= environment.items()
    assert environment["FLWR_HOME"] == "/there"
    assert environment["NO_COLOR"] == "1"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    name = Path(sys.executable).name
    with Supervisor([Child("by-name", (name, "-c", "import sys; print(sys.prefix, flush=True)"), {})], folder, print):
        assert until(lambda: text(folder / "logs" / "by-name.log").endswith(f"{sys.prefix}\n"))


def test_a_taken_port_has_a_holder_and_a_free_one_has_none():
    port = free_port()
    assert port_holder("127.0.0.1", port) is None
    with socket.create_server(("127.0.0.1", port)):
        holder = f"{psutil.Process().name()} (pid {os.getpid()})"
        assert port_holder("127.0.0.1", port) == holder
        assert port_holder("0.0.0.0", port) == holder
        with socket.create_connection(("127.0.0.1", port)):
            pass
    assert port_holder("127.0.0.1", port) is None
    assert port_holder("no such host", port) is None


def test_supervision_needs_neither_flower_nor_torch():
    program = "import casam_fed.host.supervision, sys; print({'flwr', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
