"""Whether the tests notice a wrong line: small faults are planted into a module one by one, and its tests run on each.

    python benchmarks/mutation.py                                   # every module of TARGETS
    python benchmarks/mutation.py evaluation/significance.py --survivors-of report.json
    python benchmarks/mutation.py store/group_commit.py --tests tests/store/test_faults.py --only 12 40

A fault changes one expression or statement: a comparison, an operator, a number, a condition, a boolean, a returned
value, a `break`; or it removes a call, an assignment in place, or a `raise`. Words, docstrings and types are left
alone. Each fault is judged in one process, forked from one that has collected the tests, so that it costs the tests and
little else; the code of one function is exchanged there, and no file changes. Kernels are interpreted, or those of the
module compiled anew for a fault in one of them. A fault that no test notices survives: it is printed, and written to
--out as JSON.

mutmut 3 wraps functions, which Numba cannot compile; cosmic-ray starts a Python for each fault, which is seconds of
imports here.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "zhiyin"
# Modules, and the tests that are about them.
TARGETS: dict[str, list[str]] = {
    "core/ranking_metrics.py": ["tests/core/test_ranking_metrics.py"],
    "evaluation/significance.py": ["tests/evaluation/test_significance.py"],
    "evaluation/beyond_accuracy.py": ["tests/evaluation/test_beyond_accuracy.py"],
    "evaluation/pointwise_metrics.py": ["tests/evaluation/test_pointwise_metrics.py"],
    "pipeline/rules.py": ["tests/pipeline/test_rules.py"],
    "pipeline/rulebook.py": ["tests/pipeline/test_rules.py", "tests/pipeline/test_rules_hold.py"],
    "pipeline/slot_allocation.py": ["tests/pipeline/test_slot_allocation.py"],
    "store/group_commit.py": ["tests/store/test_group_commit.py"],
}
# Modules whose tests run kernels on so little that interpreting them is quicker than compiling them for each fault.
INTERPRETED = {
    "core/ranking_metrics.py", "evaluation/beyond_accuracy.py", "evaluation/pointwise_metrics.py",
    "pipeline/slot_allocation.py",
}  # fmt: skip
# Modules whose tests start threads when they are collected (Polars' here), which do not survive a fork: each fault
# begins with the imports.
NOT_COLLECTED = {"pipeline/rules.py", "pipeline/rulebook.py"}
# Imported once. Not here: what starts threads when it is imported, for threads do not survive a fork.
PRELOADED = (
    "numpy", "scipy.sparse", "scipy.special", "scipy.stats", "numba", "pydantic", "typer", "rich", "orjson", "sqlglot",
    "pytest", "hypothesis", "sqlalchemy", "polars",
)  # fmt: skip
# A loop without end uses up its processor time; a thread that waits for ever, the other.
MIN_CPU_SECONDS, CPU_FACTOR, MIN_WAIT_SECONDS, WAIT_FACTOR = 10, 4, 300.0, 4

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip


@dataclass
class Fault:
    """One changed place: where it begins and ends in the source, what stands there, what is planted."""

    line: int
    start: int
    stop: int
    before: str
    after: str

    def planted(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.stop :]


def faults_of(source: str) -> list[Fault]:
    """All faults of a module, in the order of their lines."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    faults = []
    for node, replacement in _replacements(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[node.end_lineno - 1] + node.end_col_offset
        before, after = text[start:stop].decode(), ast.unparse(replacement)
        if isinstance(replacement, ast.expr):
            after = f"({after})"
        planted = Fault(node.lineno, start, stop, before, after)
        if ast.dump(ast.parse(planted.planted(text))) != ast.dump(ast.parse(source)):
            faults.append(planted)
    return sorted(faults, key=lambda fault: (fault.line, fault.start))


def _replacements(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(node, what could stand there), of every node but types, decorators, docstrings and imports."""
    for node in _code(tree):
        match node:
            case ast.Compare(ops=ops):
                for i, op in enumerate(ops):
                    yield node, _changed(node, ops=[*ops[:i], SWAPS[type(op)](), *ops[i + 1 :]])
            case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
                yield node, _changed(node, op=SWAPS[type(op)]())
            case ast.BoolOp(op=op):
                yield node, _changed(node, op=SWAPS[type(op)]())
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
                yield node, operand
            case ast.Constant(value=bool(value)):
                yield node, ast.Constant(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield node, ast.Constant(value + 1)
            case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant):
                yield test, ast.UnaryOp(ast.Not(), test)
            case ast.comprehension(ifs=ifs):
                for test in ifs:
                    yield test, ast.Constant(True)
            case ast.Return(value=value) if value is not None and not _is_none(value):
                yield node, ast.Return(ast.Constant(None))
            case ast.Break():
                yield node, ast.Continue()
            case ast.Continue():
                yield node, ast.Break()
            case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
                yield node, ast.Pass()
        if isinstance(node, ast.AugAssign):
            yield node, ast.Pass()


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below this one that are computed with: no types, decorators, docstrings, messages, imports."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                yield child
                yield from _code(child)


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class _Planted(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from another text than that of its file."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec")


def _run_tests(tests: list[str]) -> int:
    """pytest's exit status."""
    import pytest

    quiet = ["-x", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    return int(pytest.main([*quiet, *tests]))


def _import_planted(module: str, source: bytes) -> None:
    """Have the next import of the module take this text."""
    name = "zhiyin." + module.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, _Planted(name, PACKAGE / module, source))


class _Loaded:
    """The functions of a module that is imported, and the exchange of what one of them does.

    All who imported a function hold the same object, so its code is replaced. Kernels of the module are compiled anew,
    whatever the cache on the disk holds.
    """

    def __init__(self, module: str, source: str) -> None:
        self.path = str(PACKAGE / module)
        self.functions: dict[str, list[FunctionType]] = defaultdict(list)
        gc.unfreeze()  # tests/conftest.py froze what lived when the tests were collected
        objects = gc.get_objects()
        for found in objects:
            if isinstance(found, FunctionType) and found.__code__.co_filename == self.path:
                self.functions[found.__code__.co_qualname].append(found)
        self.kernels = [
            found for found in objects if _is_kernel(found) and found.py_func.__code__.co_filename == self.path
        ]
        for kernel in self.kernels:
            self.functions[kernel.py_func.__code__.co_qualname].append(kernel.py_func)
        self.spans = sorted(_spans(ast.parse(source), ""))

    def function_of(self, fault: Fault) -> str | None:
        """The outermost function that the fault is in the body of, if it can be replaced."""
        names = [name for first, last, name in self.spans if first <= fault.line <= last]
        return names[0] if names and names[0] in self.functions else None

    def plant(self, name: str, source: bytes) -> None:
        """Replace this function's code by that of the text."""
        code = next(code for code in _codes(compile(source, self.path, "exec")) if code.co_qualname == name)
        for function in self.functions[name]:
            function.__code__ = code
        if any(name == kernel.py_func.__code__.co_qualname for kernel in self.kernels):
            from numba.core.caching import NullCache

            for kernel in self.kernels:
                kernel._cache = NullCache()
                kernel._reset_overloads()


def _is_kernel(value: object) -> bool:
    return type(value).__name__ == "CPUDispatcher" and hasattr(value, "py_func")


def _spans(node: ast.AST, prefix: str) -> Iterator[tuple[int, int, str]]:
    """(first line, last line, name) of the bodies of functions and methods, not of functions in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.body[0].lineno, child.body[-1].end_lineno or 0, prefix + child.name
        elif isinstance(child, ast.ClassDef):
            yield from _spans(child, f"{prefix}{child.name}.")


def _codes(code: CodeType) -> Iterator[CodeType]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield value
            yield from _codes(value)


def _in_child(
    prepare: Callable[[], None], tests: list[str], log: Path, cpu_seconds: int, wait_seconds: float
) -> tuple[int | None, float]:
    """Run the tests in a fork: their exit status, None where they took too long, and the processor time they took."""
    pid = os.fork()
    if pid:
        return _wait(pid, wait_seconds)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        os.setpgid(0, 0)  # so that all it starts can be ended
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        prepare()
        status = _run_tests(tests)
    except BaseException:
        traceback.print_exc()
        status = 3
    sys.stdout.flush()
    os._exit(status)


def _wait(pid: int, wait_seconds: float) -> tuple[int | None, float]:
    deadline = time.monotonic() + wait_seconds
    done = 0
    while not done and time.monotonic() < deadline:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        time.sleep(0 if done else 0.02)
    _end_group(pid)
    if not done:
        os.waitpid(pid, 0)
        return None, wait_seconds
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGXCPU else code, usage.ru_utime + usage.ru_stime


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="of src/zhiyin; all of TARGETS without any")
    parser.add_argument("--tests", nargs="+", help="tests to run in place of those of TARGETS")
    parser.add_argument("--sample", type=int, help="so many faults of each module, drawn at random")
    parser.add_argument("--only", nargs=2, type=int, metavar=("FIRST", "STOP"), help="faults FIRST to STOP - 1")
    parser.add_argument("--survivors-of", type=Path, help="only what survived in that report")
    parser.add_argument("--out", type=Path, help="where the report goes, as JSON")
    parser.add_argument("--list", action="store_true", help="print the faults and run nothing")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    earlier = json.loads(options.survivors_of.read_text()) if options.survivors_of else None
    report = {}
    for module in options.modules or TARGETS:
        source = (PACKAGE / module).read_text()
        faults = faults_of(source)[slice(*options.only)] if options.only else faults_of(source)
        if options.sample and options.sample < len(faults):
            faults = [faults[i] for i in sorted(random.Random(0).sample(range(len(faults)), options.sample))]
        if earlier is not None:
            survived = {(item["before"], item["after"], item["text"]) for item in earlier[module]["survivors"]}
            lines = source.splitlines()
            faults = [f for f in faults if (f.before, f.after, lines[f.line - 1].strip()) in survived]
        if options.list:
            for fault in faults:
                print(f"{module}:{fault.line}: {fault.before!r} -> {fault.after!r}")
            continue
        report[module] = _judge(module, source, faults, options.tests or TARGETS[module])
        if options.out:
            options.out.write_text(json.dumps(report, indent=1))


def _judge(module: str, source: str, faults: list[Fault], tests: list[str]) -> dict[str, object]:
    """Run the tests on each fault: how many are noticed, and which are not."""
    pid = os.fork()  # so that each module begins in a process without Zhiyin
    report = Path(f"/tmp/zhiyin-mutation-{pid or os.getpid()}.json")
    if not pid:
        report.write_text(json.dumps(_judge_here(module, source, faults, tests)))
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"{module}: failed")
    result = json.loads(report.read_text())
    report.unlink()
    return result


def _judge_here(module: str, source: str, faults: list[Fault], tests: list[str]) -> dict[str, object]:
    if module in INTERPRETED:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    text = source.encode()
    log = Path(f"/tmp/zhiyin-mutation-{os.getpid()}.log")
    start = time.monotonic()
    status, seconds = _in_child(lambda: None, tests, log, 1800, 1800)
    if status != 0:
        sys.exit(f"{module}: its tests fail without a fault ({status}): {log.read_text()[-3000:]}")
    limit = int(max(MIN_CPU_SECONDS, CPU_FACTOR * seconds))
    wait = max(MIN_WAIT_SECONDS, WAIT_FACTOR * (time.monotonic() - start))
    print(f"{module}: {len(faults)} faults, {seconds:.1f} s of processor without one", flush=True)
    counts: Counter[str] = Counter()
    survivors = []

    def judge(fault: Fault, prepare: Callable[[], None]) -> None:
        status, _ = _in_child(prepare, tests, log, limit, wait)
        outcome = "survived" if status == 0 else "timeout" if status is None else "noticed" if status == 1 else "broken"
        counts[outcome] += 1
        if outcome == "survived":
            print(f"  {module}:{fault.line}: {fault.before!r} -> {fault.after!r}", flush=True)
            line = source.splitlines()[fault.line - 1].strip()
            survivors.append({"line": fault.line, "before": fault.before, "after": fault.after, "text": line})

    # What runs as the module is imported is judged before it is; functions afterwards, which spares the imports.
    spans = sorted(_spans(ast.parse(source), ""))
    inside = [fault for fault in faults if any(first <= fault.line <= last for first, last, _ in spans)]
    inside = [] if module in NOT_COLLECTED else inside
    for fault in faults:
        if fault not in inside:
            judge(fault, partial(_import_planted, module, fault.planted(text)))
    if inside:
        loaded = _collect(module, source, tests)
        status, seconds = _in_child(lambda: None, tests, log, limit, wait)
        if status != 0:
            sys.exit(f"{module}: its tests fail in a fork ({status}): {log.read_text()[-3000:]}")
        limit = int(max(MIN_CPU_SECONDS, CPU_FACTOR * seconds))
        for fault in inside:
            name = loaded.function_of(fault)
            if name is None:
                counts["not judged"] += 1
                continue
            judge(fault, partial(loaded.plant, name, fault.planted(text)))
    print(f"{module}: {dict(counts)} in {time.monotonic() - start:.0f} s", flush=True)
    log.unlink(missing_ok=True)
    return {"faults": len(faults), **counts, "survivors": survivors}


def _collect(module: str, source: str, tests: list[str]) -> _Loaded:
    """The module, imported with the tests."""
    import pytest

    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *tests])
    importlib.import_module("zhiyin." + module.removesuffix(".py").replace("/", "."))
    return _Loaded(module, source)


if __name__ == "__main__":
    main()
