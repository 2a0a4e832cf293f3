"""Checks of a log, each finding with a name, a severity and a remedy.

Each check is a function from the `Facts` of a log to a `Finding` or None, in the module of its topic; a new one is one
function and one name in `examination.CHECKS`.
"""

from zhiyin.data.checks.examination import CHECKS, examine
from zhiyin.data.checks.facts import Facts
from zhiyin.data.checks.finding import SEVERITIES, Finding

__all__ = ["CHECKS", "SEVERITIES", "Facts", "Finding", "examine"]
