"""``l3hpc ledger``: show, compare, export and synchronise the results tables."""

from __future__ import annotations

import click

from l3hpc.cli.ledger import export, repair, sheet, views

EXAMPLES = """\b
Examples:
  l3hpc ledger show                                       best row first, differing columns only
  l3hpc ledger show --tab sonyc_ust --where 'Label Mode=coarse' --sort 'Micro AUPRC'
  l3hpc ledger diff 1a2b 77c0                             two runs side by side
  l3hpc ledger export --xlsx results.xlsx --html results.html
  l3hpc ledger init && l3hpc ledger sync                  to the Google Sheet of cluster.yaml
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Show, export and synchronise the results tables.

    The journals in the workspace are the source of truth; tables, files and the Google Sheet are
    views of them.
    """


for _each in (*views.COMMANDS, *export.COMMANDS, *sheet.COMMANDS, *repair.COMMANDS):
    command.add_command(_each)
