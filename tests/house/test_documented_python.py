"""The program in docs/python.md runs as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY
from tests.support.toy import TOY_MODEL

TOY_DATA = {"data.vocab_size": 46, "data.byte_fallback": False, "data.deduplicate": False}


@pytest.mark.processes
def test_the_program_preprocesses_trains_evaluates_and_translates(toy_corpus, tmp_path: Path):
    page = (REPOSITORY / "docs/python.md").read_text("utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "program.py").write_text(program, "utf-8")
    for name, part in {"train": "train", "valid": "valid", "test": "valid"}.items():
        for language, side in {"de": "src", "en": "tgt"}.items():
            text = (toy_corpus / f"{part}.{side}").read_text("utf-8")
            (tmp_path / f"{name}.{language}").write_text(text, "utf-8")
    settings = {**TOY_MODEL, **TOY_DATA, "training.max_updates": 3}
    options = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (tmp_path / "my.toml").write_text(options, "utf-8")
    result = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert re.fullmatch(r"reached training\.max_updates = 3 \d+\.\d+(e-\d+)?", first)
    assert re.fullmatch(r"\['.*', '.*'\]", second)
