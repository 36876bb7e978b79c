"""Bad input on every command line, called in this process."""

import contextlib
import io
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.faults.counting import Count
from tests.faults.inputs import ODD_TEXTS, generated, limited
from tests.faults.kills import different

CONTENTS = (
    b"", b"\0\1\2", b"- a\n- b\n", b"a: [", b"schedule: 3\n", b"{}", b"select: 3", b"select: {budget_frames: x}", b"\xff", b"&a [*a]",
)  # fmt: skip


def command_lines(folder: Path, registry: Path) -> dict[str, tuple[Callable[[list[str]], int], list[list[str]]]]:
    """Give every command line: its main function and argument lists in which `?` stands for something odd."""
    import benchmarks.tables.__main__ as tables
    from components.stage.command import main as component
    from components.stage.registry import all_stages
    from pipelines import data_versions, engine, evaluate, local, runs, schedule, submit

    out, file, data = str(folder / "out"), str(folder / "odd_file"), str(folder)

    def lists(*texts: str) -> list[list[str]]:
        known = {"OUT": out, "FILE": file, "DATA": data, "REGISTRY": str(registry), "HOST": "http://127.0.0.1:9"}
        return [[known.get(word, word) for word in text.split()] for text in texts]

    def component_line(words: list[str]) -> int:
        return component(all_stages(), words)

    stages = [[name, *_required(stage, out)] for name, stage in all_stages().items()]
    ends = (["--set", "?"], ["--params", "?"], ["--params", file])
    calls = [[*words, *end] for words in stages for end in ends] + [
        [name, "--executor-input", "?"] for name in all_stages()
    ]
    return {
        "components": (component_line, [*calls, *lists("?", "select --task ?")]),
        "run": (local.main, lists(
            "--runs OUT --profile ?", "--runs OUT --run ? --set select.budget_frames=-1", "--runs OUT --set ?",
            "--runs OUT --profile camvid --data ?", "--runs OUT --set select.?=1",
        )),
        "data_versions": (data_versions.main, lists(
            "review --registry REGISTRY --base ? --head ? --out OUT", "promote --registry REGISTRY --version ? --by Ada --reason reason",
            "promote --registry REGISTRY --version ? --manifest ? --by ? --reason ?", "rollback --registry REGISTRY --by ? --reason ?",
            "reject --registry REGISTRY --version ? --by ? --reason ?", "versions --registry ?", "history --registry ?",
            "reproduce --registry REGISTRY --version ? --out OUT", "lineage --registry REGISTRY --frame ?",
            "lineage --registry REGISTRY --drive ?", "scrub --registry REGISTRY --sample ?", "scrub --registry ?",
            "retire --registry REGISTRY --days ?", "retire --registry REGISTRY --plan ? --by ? --reason ?",
            "verify_history --registry REGISTRY --signers ?", "verify_history --registry REGISTRY --signers FILE", "? --registry REGISTRY",
        )),
        "evaluate": (evaluate.main, lists(
            "--model ? --data DATA --out OUT", "--model FILE --data ? --out OUT", "--model FILE --data DATA --set ? --out OUT",
            "--model FILE --data DATA --format ? --out OUT",
        )),
        "table": (tables.main, lists("?", "dpe --size ?", "dpe --data ? --out OUT --work OUT", "dpe --seeds ?")),
        "schedule": (schedule.main, lists("--file ? --dry-run --host HOST", "--file FILE --dry-run --host HOST")),
        "submit": (submit.main, lists(
            "--profile ? --host HOST", "--set ? --host HOST", "--data DATA --images ? --host HOST", "--data DATA --images FILE --host HOST",
            "--data DATA --parameter ? --no-preflight --host HOST",
        )),
        "status": (runs.main, lists("status --run ? --host HOST", "? --host HOST", "cancel --run ? --host HOST")),
        "engine": (engine.main, lists("? --out OUT", "FILE --out OUT")),
    }  # fmt: skip


def _required(stage: Any, out: str) -> list[str]:
    words = []
    for port in (*stage.inputs, *stage.outputs):
        if not (port in stage.inputs and port.optional):
            words += [f"--{port.name.replace('_', '-')}", out + "/" + port.name]
    return words


def odd_command_lines(folder: Path, examples: int, registry: Path) -> Count:
    """Call every command line in this process with odd words; nothing that was there may change."""
    lines = command_lines(folder, registry)
    file = folder / "odd_file"
    flat = [(name, words) for name, (_, patterns) in sorted(lines.items()) for words in patterns]
    texts = st.sampled_from(ODD_TEXTS) | st.text(string.printable + "é名\u0000", max_size=12)
    contents = st.sampled_from(CONTENTS)
    before = _tree(registry)

    def judge(case: Any) -> str:
        number, odd, content_ = case
        name, pattern = flat[number % len(flat)]
        words = [word.replace("?", odd) for word in pattern]
        file.write_bytes(content_)
        return call_main(lines[name][0], words, f"{name} {[word[:60] for word in words]}")

    row = generated(examples, st.tuples(st.integers(0, 10**6), texts, contents), judge, "command lines")
    changed = different(_tree(registry), before)
    if changed:
        return Count(
            row.name, row.cases + 1, 0, row.correct, row.errors, (*row.losses, f"the registry changed: {changed[:4]}")
        )
    return row


def _tree(root: Path) -> dict[str, str]:
    return {str(path): f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in root.rglob("*") if path.is_file()}


def call_main(main: Callable[[list[str]], int], words: list[str], what: str) -> str:
    """Call a command line's main: "error" for exit code 2 or 1 with a line that says why, "correct" for exit code 0."""
    said, here = io.StringIO(), Path.cwd()
    try:
        with limited(30), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except (Exception, RecursionError) as error:
        return f"{what}: {type(error).__name__}: {str(error)[:200]}"
    finally:
        os.chdir(here)
    text = said.getvalue()
    if "Traceback" in text or code not in (0, 1, 2):
        return f"{what}: code {code}, {text[-300:]!r}"
    if code == 0:
        return "correct"
    return "error" if "nightdrive" in text or "error:" in text else f"{what}: code {code} without a word"
