"""The results tables: always kept in the workspace; a Google Sheet where one is configured."""

from __future__ import annotations

from l3hpc.config.settings import Config
from l3hpc.errors import HeaderDriftError, L3hpcError, OfflineError
from l3hpc.findings import Finding, from_error

CHECK = "results sheet"
PATIENCE_S = 12.0


def results_line(config: Config, probe: bool = True) -> Finding:
    """Whether the configured sheet can be reached with the configured key, and has our columns.

    Without ``probe`` only the key file is looked at.
    """
    if config.ledger.sheet_id is None:
        return Finding(CHECK, "off", "not set (ledger.sheet_id, GSHEET_ID): results stay in the "
                       "workspace, as CSV and XLSX", "see them: l3hpc ledger show")
    from l3hpc.ledger.schema import MAIN_TABS, TABS
    from l3hpc.ledger.sheets.client import Pace, Sheets, credentials
    from l3hpc.ledger.sheets.grid import require_headers
    from l3hpc.ledger.sheets.sync import snapshot_of

    try:
        if not probe:
            if config.ledger.key_file is not None:
                credentials(config.ledger.key_file)
            return Finding(CHECK, "green", f"{config.ledger.sheet_id}, not asked")
        sheets = Sheets(config.ledger.sheet_id, config.ledger.key_file,
                        pace=Pace(lambda text: None, sleep=_Impatience()))
        snapshot = snapshot_of(sheets)
        require_headers(snapshot, [TABS[name] for name in MAIN_TABS])
    except OfflineError as error:
        return Finding(CHECK, "yellow", f"{error.message}; results are kept in the workspace",
                       "l3hpc ledger sync   on a machine with internet access")
    except HeaderDriftError as error:
        return from_error(CHECK, error, "l3hpc ledger check")
    except L3hpcError as error:
        return from_error(CHECK, error, "l3hpc ledger check")
    return Finding(CHECK, "green", f"{snapshot.title!r} answers as {sheets.account}, with all "
                   f"columns of {', '.join(MAIN_TABS)}")


class _Impatience:
    """A ``sleep`` for the doctor: short waits, and after some seconds none any more."""

    def __init__(self) -> None:
        self.left = PATIENCE_S

    def __call__(self, seconds: float) -> None:
        if seconds > self.left:
            raise OfflineError(f"no answer from Google within {PATIENCE_S:.0f} s")
        self.left -= seconds
        import time

        time.sleep(seconds)
