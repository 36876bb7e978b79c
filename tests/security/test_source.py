"""No way from a file or a word that somebody else wrote to code that runs: the source is read, not trusted."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("components", "perception", "pipelines", "benchmarks", "images")
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def sources() -> list[Path]:
    return sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def problems(text: str, name: str) -> Iterator[str]:
    """Say what in a source file may run what a file or a caller says."""
    for node in ast.walk(ast.parse(text)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            for module in {each.partition(".")[0] for each in modules} & FORBIDDEN_IMPORTS:
                yield f"{where} imports {module}"
        if isinstance(node, ast.Call):
            yield from (f"{where} {said}" for said in _call(node))


def _call(node: ast.Call) -> Iterator[str]:
    called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
    if called in FORBIDDEN_CALLS:
        yield f"calls {called}"
    if called == "torch.load" and given.get("weights_only") != "True":
        yield "calls torch.load without weights_only=True"
    if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        yield "calls np.load without allow_pickle=False"
    if given.get("allow_pickle") == "True":
        yield "allows pickles"
    if called in ("yaml.load", "yaml.load_all") and given.get("Loader") not in (
        "_Loader",
        "_safe_loader()",
        "yaml.SafeLoader",
        "yaml.CSafeLoader",
    ):
        yield "calls yaml.load without a safe loader"
    if called in (
        "yaml.unsafe_load",
        "yaml.full_load",
        "os.system",
        "os.popen",
        "pd.read_pickle",
        "pandas.read_pickle",
    ):
        yield f"calls {called}"
    if given.get("shell") == "True":
        yield "runs a shell"
    if called.endswith((".extractall", ".extract")) and "filter" not in given:
        yield f"calls {called} without a filter"
    if called == "shutil.unpack_archive":
        yield "calls shutil.unpack_archive, which follows what an archive says"
    if called == "tempfile.mktemp":
        yield "makes a temporary name that another process may take"


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_a_file_says_is_run(path: Path) -> None:
    assert list(problems(path.read_text(), path.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)",
        "np.load(path, allow_pickle=True)", "yaml.load(text)", "yaml.load(text, Loader=yaml.UnsafeLoader)", "yaml.full_load(text)",
        "eval(text)", "exec(text)", "subprocess.run(text, shell=True)", "os.system(text)", "archive.extractall(folder)",
        "archive.extract(member, folder)", "shutil.unpack_archive(path)", "pd.read_pickle(path)", "tempfile.mktemp()",
    ],
)  # fmt: skip
def test_each_way_would_be_found(line: str) -> None:
    assert list(problems(line, "x.py"))


def test_the_safe_loader_of_suites_is_one() -> None:
    import yaml

    from perception.quality import suites

    assert issubclass(suites._Loader, (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=suites._Loader)
