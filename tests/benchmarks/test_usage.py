"""CPU seconds: those of a tree of processes, whoever of it has ended."""

from __future__ import annotations

import os

from benchmarks.usage import Meter
from tests.processes import PythonProcess

_BURN_S = 0.3
_BURNING = f"""
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < {_BURN_S}: pass"
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", burn], check=True)
    print("done")
    sys.stdout.flush()
    sys.stdin.read()
    time.sleep(60)
"""


def test_what_a_child_has_used_stays_when_it_has_ended() -> None:
    process = PythonProcess(["-c", _BURNING])
    with process.launched():
        meter = Meter({"parent": process.pid})
        before = meter.read()
        process.await_line()
        usage = meter.since(before)
    assert usage.cpu_s["parent"] >= _BURN_S
    assert 0 <= usage.other_cpu <= 1


def test_what_others_use_is_not_ours() -> None:
    burner = PythonProcess(["-c", "print('burning', flush=True)\nwhile True: pass"])
    with burner:
        meter = Meter({})
        before = meter.read()
        _let_burn(burner.pid)
        usage = meter.since(before)
    cores = os.cpu_count() or 1
    assert usage.other_cpu * usage.elapsed_s * cores >= _BURN_S * 0.9


def _let_burn(pid: int) -> None:
    """Until the process has used a while of CPU, however long that takes."""
    meter = Meter({"burner": pid})
    before = meter.read()
    while meter.since(before).cpu_s["burner"] < _BURN_S:
        pass
