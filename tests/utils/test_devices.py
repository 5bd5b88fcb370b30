"""What is asked of the machine and its C library."""

import platform

import pytest

from tests import processes

FREED = """
import psutil, torch
from bundle.utils.devices import keep_freed_memory

{call}
for _ in range(2):
    kept = torch.ones(64 << 20, dtype=torch.uint8)
    with_it = psutil.Process().memory_info().rss
    del kept
    without = psutil.Process().memory_info().rss
print((with_it - without) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_is_kept_if_told(kept, tmp_path):
    script = tmp_path / "freed.py"
    script.write_text(FREED.format(call="keep_freed_memory()" if kept else ""))
    given_back_mib = int(processes.run([script]).stdout)
    assert given_back_mib < 8 if kept else given_back_mib > 56
