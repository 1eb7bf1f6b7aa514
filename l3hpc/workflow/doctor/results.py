"""The results tables: always kept in the workspace; a Google Sheet where one is configured."""

from __future__ import annotations

import json
import os
from pathlib import Path

from l3hpc.workflow.config import Config
from l3hpc.workflow.doctor.line import Line

CHECK = "results sheet"


def results_line(config: Config, probe: bool = True) -> Line:
    """Whether the configured sheet can be reached with the configured key."""
    if config.ledger.sheet_id is None:
        return Line(CHECK, "off", "not set (ledger.sheet_id, GSHEET_ID): results stay in the "
                    "workspace, as CSV and XLSX", "see them: l3hpc ledger show")
    key = config.ledger.key_file
    if key is not None and (fault := key_fault(key)):
        return Line(CHECK, "red", fault, "make a key of a service account, share the sheet with "
                    "its address, and set ledger.key_file")
    return Line(CHECK, "green", f"{config.ledger.sheet_id}, not asked")


def key_fault(path: Path) -> str:
    """What is wrong with a service-account key file ('' if nothing)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"key file {path} cannot be read: {error.strerror}"
    except ValueError:
        return f"key file {path} is not JSON"
    if not isinstance(value, dict) or value.get("type") != "service_account":
        return f"key file {path} is not the key of a service account"
    if os.stat(path).st_mode & 0o077:
        return f"key file {path} can be read by others (chmod 600 {path})"
    return ""
