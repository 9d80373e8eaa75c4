"""The program in docs/python.md runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_library_is_used_as_its_page_says(tmp_path, digit_features):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second, fid = done.stdout.splitlines()
    for line in (first, second):
        assert -26 < float(re.findall(r"ELBO (-[\d.]+)", line)[0]) < -20
    assert re.fullmatch(r"FID [\d.]+ at N = 360", fid)
