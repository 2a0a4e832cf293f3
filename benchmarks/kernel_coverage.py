"""Which lines of kernels the tests reach: compiled code cannot be traced, so the tests run without the compiler.

    python benchmarks/kernel_coverage.py                                   # the tests of TESTS
    python benchmarks/kernel_coverage.py tests/models/test_slim.py         # others

Interpreted, a kernel is about a hundred times slower: a test that takes more than --timeout seconds counts with the
lines that it came to, and is no failure here. Printed: of each module its kernels' lines and branches, and the lines
that are missed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "zhiyin"
TESTS = (
    "tests/data", "tests/evaluation", "tests/features", "tests/models", "tests/pipeline", "tests/ranking",
)  # fmt: skip
DECORATORS = ("kernel", "compiled")


def kernel_lines(source: str) -> set[int]:
    """The lines of the bodies of kernels."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any(_name(one) in DECORATORS for one in node.decorator_list):
            lines.update(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
    return lines


def _name(decorator: ast.expr) -> str:
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.id if isinstance(decorator, ast.Name) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=list(TESTS))
    parser.add_argument("--timeout", type=int, default=20, help="seconds of one test")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "COVERAGE_FILE": f"{folder}/data"}
        coverage = [sys.executable, "-m", "coverage"]
        settings = ["-q", "-m", "not slow", "--hypothesis-profile", "fast", "--timeout", str(options.timeout)]
        tests = ["-m", "pytest", *settings, "-n", str(options.workers), "--dist", "worksteal", *options.tests]
        subprocess.run([*coverage, "run", *tests], cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        subprocess.run([*coverage, "combine", "-q"], cwd=ROOT, env=environment, check=True)
        # Here the bodies of kernels are what counts.
        rules = Path(folder) / "rules"
        rules.write_text("[report]\nexclude_also =\n")
        report = Path(folder) / "report.json"
        words = ["json", "--rcfile", str(rules), "-q", "-o", str(report)]
        subprocess.run([*coverage, *words], cwd=ROOT, env=environment, check=True)
        files = json.loads(report.read_text())["files"]
    reached = total = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = kernel_lines(path.read_text())
        measured = files.get(str(path)) or files.get(path.relative_to(ROOT).as_posix())
        if not lines or measured is None:
            continue
        executed = lines & set(measured["executed_lines"])
        missing = lines & set(measured["missing_lines"])
        branches = [b for b in measured.get("executed_branches", []) if b[0] in lines]
        missed_branches = [b for b in measured.get("missing_branches", []) if b[0] in lines]
        good = len(executed) + len(branches)
        of = good + len(missing) + len(missed_branches)
        reached, total = reached + good, total + of
        if of:
            name = path.relative_to(PACKAGE).as_posix()
            print(f"{name:45} {good:5} of {of:5} {100 * good / of:6.1f} %  {sorted(missing) or ''}")
    print(f"{'kernels':45} {reached:5} of {total:5} {100 * reached / max(total, 1):6.1f} %")


if __name__ == "__main__":
    main()
