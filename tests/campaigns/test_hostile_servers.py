"""A few cases of the campaign."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from apportion.stages.models.openai import _client as openai_client

CAMPAIGN: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("hostile_servers.py")))


def test_no_answer_of_a_server_is_a_traceback_or_a_broken_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openai._base_client.INITIAL_RETRY_DELAY", "openai._base_client.MAX_RETRY_DELAY"):
        monkeypatch.setattr(name, 0.01)  # so that they are put back: the campaign sets them, too
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(openai_client, name, 0.01)
    assert CAMPAIGN["campaign"](4, 20) == {}
