"""Every route against its own description, under whatever schemathesis thinks of.

Never a 5xx, and every answer in a documented form: status, content type,
headers, schema.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.processes import BrokerProcess

CONFIG: Final = Path(__file__).with_name("schemathesis.toml")

EXAMPLES: Final = 15
"""Random requests of a route, beside the hundred that the document's limits suggest: more is for
whoever has the time."""


@pytest.mark.timeout(300)
def test_no_request_breaks_the_contract(database_url: str, tmp_path: Path) -> None:
    # The document holds the limit, so no generated poll waits longer.
    with BrokerProcess(database_url, request_timeout_ms_max="50") as broker:
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG)),
            *("run", f"{broker.base_url}/openapi.json", "--phases", "coverage,fuzzing"),
            *("--max-examples", str(EXAMPLES), "--generation-database", "none"),
            *("--request-timeout", "20", "--warnings", "off", "--no-color"),
        ]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "request failed" not in broker.log
