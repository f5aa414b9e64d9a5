"""The demo, whole: it must learn. Minutes long; `make test-system`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

pytestmark = pytest.mark.system


@pytest.mark.parametrize("model", ["transformer", "rnn"])
def test_the_demo_learns_its_task(tmp_path, model):
    run = tmp_path / "demo"
    commands = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "RUN": str(run),
        "SET": f"--set model.type={model}",
    }
    subprocess.run([REPOSITORY / "recipes/demo/run"], env=environment, check=True)
    result = json.loads((run / "evaluation" / "demo.json").read_text("utf-8"))
    assert result["bleu"]["score"] > 90
    events = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").open()]
    assert max(e["staleness_max"] for e in events if e["event"] == "train") >= 1, "two workers"
