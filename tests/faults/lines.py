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
    from components.stage.__main__ import run as run_stage
    from components.stage.registry import all_stages
    from pipelines.commands.program import main

    out, file, data = str(folder / "out"), str(folder / "odd_file"), str(folder)

    def lists(*texts: str) -> list[list[str]]:
        known = {"OUT": out, "FILE": file, "DATA": data, "REGISTRY": str(registry), "HOST": "http://127.0.0.1:9"}
        return [[known.get(word, word) for word in text.split()] for text in texts]

    stages = [[name, *_required(stage, out)] for name, stage in all_stages().items()]
    ends = (["--set", "?"], ["--params", "?"], ["--params", file])
    calls = [[*words, *end] for words in stages for end in ends]
    calls += [[name, "--executor-input", "?"] for name in all_stages()]
    return {
        "components": (run_stage, [*calls, *lists("?", "select --task ?")]),
        "nightdrive": (main, lists(
            "run --runs OUT --profile ?", "run --runs OUT --run ? --set select.budget_frames=-1", "run --runs OUT --set ?",
            "run --runs OUT --profile camvid --data ?", "run --runs OUT --set select.?=1", "?", "? --registry REGISTRY",
            "review --registry REGISTRY --base ? --head ? --out OUT", "promote --registry REGISTRY --version ? --by Ada --reason reason",
            "promote --registry REGISTRY --version ? --manifest ? --by ? --reason ?", "rollback --registry REGISTRY --by ? --reason ?",
            "reject --registry REGISTRY --version ? --by ? --reason ?", "versions --registry ?", "history --registry ?",
            "reproduce --registry REGISTRY --version ? --out OUT", "lineage --registry REGISTRY --frame ?",
            "lineage --registry REGISTRY --drive ?", "scrub --registry REGISTRY --sample ?", "scrub --registry ?",
            "retire --registry REGISTRY --days ?", "retire --registry REGISTRY --plan ? --by ? --reason ?",
            "verify-history --registry ?", "trust --registry REGISTRY --signers ?", "trust --registry REGISTRY --signers FILE",
            "evaluate --model ? --data DATA --out OUT", "evaluate --model FILE --data ? --out OUT",
            "evaluate --model FILE --data DATA --set ? --out OUT", "evaluate --model FILE --data DATA --format ? --out OUT",
            "table ?", "table dpe --size ?", "table dpe --data ? --out OUT --work OUT", "table dpe --seeds ?",
            "schedule --file ? --dry-run --host HOST", "schedule --file FILE --dry-run --host HOST",
            "pipeline-compile --profile ? --out OUT", "pipeline-submit --set ? --host HOST",
            "pipeline-submit --data DATA --images ? --host HOST", "pipeline-submit --data DATA --images FILE --host HOST",
            "pipeline-status --run ? --host HOST", "pipeline-status ? --host HOST", "cancel --run ? --host HOST",
            "engine --onnx ? --out OUT", "engine --onnx FILE --out OUT", "profile --runs OUT --run ?",
        )),
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
    texts = st.sampled_from(ODD_TEXTS) | st.text(string.printable + "é名", max_size=12)  # a process is given no NUL
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
