"""Threads of PyTorch that wait leave the cores to others."""

import platform

import pytest

from tests import processes

IDLE = """
import time, torch
from bundle.utils.threads import wait_passively

torch.set_num_threads(2)
some = torch.ones(2**20)


def busy_ms():
    some.add_(1)
    begin = time.process_time()
    for _ in range(20):
        some.add_(1)
        time.sleep(0.01)
    return 1000 * (time.process_time() - begin) / 20


before = busy_ms()
wait_passively()
wait_passively()
print(before, busy_ms())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's OpenMP alone")
def test_threads_that_wait_do_not_spin(tmp_path):
    script = tmp_path / "idle.py"
    script.write_text(IDLE)
    before, after = map(float, processes.run([script]).stdout.split())
    # Processor time, which other programs hardly touch: an operation takes less than 1 ms.
    assert before > 2, "PyTorch's threads do not spin any more: wait_passively can go"
    assert after < before / 3
