"""Ranks that die, hang or run out of memory end the job with one message that names them; nothing is left running."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import shardwright as sw
from shardwright.run.launch import launch

pytestmark = pytest.mark.ranks


def meet_after(what, victim):
    """All ranks meet; before that, something happens to one."""
    if dist.get_rank() == victim:
        what()
    dist.all_reduce(torch.ones(1))
    return os.getpid()


def fall_asleep():
    time.sleep(600)


def stop_running():
    os.kill(os.getpid(), signal.SIGSTOP)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def use_up_memory():
    limit = 2**28
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + limit, held + limit))
    torch.ones(2**30)


def raise_an_error():
    raise sw.InputError("the input is wrong")


CASES = {
    "sleeps": (fall_asleep, r"waited 4 s without an answer: rank 1 is at .*test_launch.py:\d+ \(fall_asleep\)"),
    "is killed": (be_killed, r"rank 1 failed: Signal 9 \(SIGKILL\).*out of memory"),
    "runs out of memory": (use_up_memory, "rank 1 failed: .*memory"),
    "raises": (raise_an_error, "rank 1 failed: InputError: the input is wrong"),
}


@pytest.mark.parametrize(("what", "says"), CASES.values(), ids=CASES)
def test_a_rank_that_goes_wrong_is_named(what, says):
    start, kept = time.monotonic(), signal.getsignal(signal.SIGINT)
    with pytest.raises(sw.RunError, match=f"(?s)^[^\n]*{says}"):
        launch(2, meet_after, what, 1, timeout_s=4)
    assert time.monotonic() - start < 120
    # The launcher takes signals over while it runs; a shell may have had them ignored before.
    assert signal.getsignal(signal.SIGINT) is kept


SCRIPT = """
import time
from shardwright.run.launch import launch

def wait(path):
    import os
    open(f"{path}/{os.environ['RANK']}", "w").write(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    import sys
    launch(2, wait, sys.argv[1])
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_no_rank_outlives_the_launcher(tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pids").mkdir()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pids")]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, env=env, stderr=said)
    try:
        deadline = time.monotonic() + 120
        while len([p for p in (tmp_path / "pids").iterdir() if p.read_text()]) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        pids = [int(path.read_text()) for path in (tmp_path / "pids").iterdir()]
        process.send_signal(number)
        process.wait(60)
        while any(map(is_running, pids)):
            assert time.monotonic() < deadline + 60
            time.sleep(0.2)
    finally:
        process.kill()
    assert {"SIGINT": "KeyboardInterrupt", "SIGTERM": "stopped by SIGTERM"}.get(number.name, "") in (
        tmp_path / "said"
    ).read_text()


def test_what_cannot_be_sent_to_the_ranks_is_no_rank_s_failure():
    with pytest.raises(sw.RunError, match=r"could not be started: .*<lambda> and its arguments .* cannot be pickled"):
        launch(2, lambda: None)


UNGUARDED = """
from operator import add
from shardwright.run.launch import launch
launch(2, add, 1, 2)
"""


def test_a_script_that_every_process_would_run_again(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(UNGUARDED)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, path], env=env, capture_output=True, text=True, timeout=300, check=False)
    last = ran.stderr[ran.stderr.rindex("RunError: ") :]
    assert ran.returncode == 1
    assert "could not be started: exit code 1" in last
    assert "__main__" in last
