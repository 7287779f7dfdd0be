"""How much memory a small fit takes at its peak; reported, not judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CODE = """
import resource, sys
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from retro_lightning.cli.main import main
from retro_lightning.config import command
from retro_lightning.training import datamodule, module
imported = peak()
code = main(["fit", "--config", sys.argv[1]])
print("KIB", imported, peak())
sys.exit(code)
"""


def test_peak_memory_of_a_fit(tmp_path, benchmark):
    def fit() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", CODE, str(ROOT / "conf" / "smoke.yaml")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    done = benchmark.pedantic(fit, rounds=1)
    assert done.returncode == 0, done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("KIB ")]
    imported, peak = (int(number) / 1024 for number in line.split()[1:])
    benchmark.extra_info.update(imported_mib=imported, peak_mib=peak)
    print(f"\nfit of conf/smoke.yaml: {peak:.0f} MiB at its peak, {imported:.0f} after the imports")
