"""Start stages warm: on one machine, a process that has heavy libraries loaded forks each stage that needs them.

Loading PyTorch, Great Expectations or pandas takes longer than most of what the stages of a small night do with them. So the
local engine keeps one process for each such library, which loads it while the first stages run; `python -m components.stage STAGE`
asks it to run the stage, in a fork that has the caller's arguments, folder, environment and standard streams, and ends with the
fork's exit code. In a container nothing of this happens. Linux only: elsewhere every stage loads its own libraries.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from components.stage.execution import die_with_parent
from components.stage.program import EXIT_FAILED
from components.stage.registry import all_stages, find_stage, stage_names
from components.stage.usage import FORKED_VARIABLE

WARM_VARIABLE = "NIGHTDRIVE_WARM"  # folder of the sockets, one a library; set by the local engine
_STREAMS = (0, 1, 2)
_SIZE_BYTES = 8  # of the number that says how long a request is
_WITH = {  # what the stages that load a library load beside it
    # The first optimiser step of every process loads torch._dynamo, which takes longer than torch itself.
    "torch": ("pandas", "pyarrow.parquet", "cv2", "perception.training.loop", "torch._dynamo"),
    "pandas": ("pyarrow.parquet", "cv2", "perception.quality.intake"),
    "great_expectations": ("perception.quality.gate",),
}


@contextlib.contextmanager
def warm_processes(libraries: Iterable[str], environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Keep a process for each library until the block ends; yield the environment in which stages find them.

    They load their libraries at once, beside the first stages. The processes die with this one.
    """
    if sys.platform != "linux":
        yield dict(environment)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nightdrive-")))  # mode 0700: ours alone
        for library in libraries:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            with _short_path(folder) as place:
                listener.bind(f"{place}/{library}")
            listener.listen()
            process = subprocess.Popen(
                [sys.executable, "-m", "components.stage.warm", library, str(listener.fileno())],
                env=dict(environment),
                pass_fds=[listener.fileno()],
                preexec_fn=die_with_parent,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield {**environment, WARM_VARIABLE: str(folder)}


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Yield a path of a folder that fits into a socket's address, 107 bytes, whatever TMPDIR is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def run_warm(arguments: Sequence[str]) -> int | None:
    """Have a warm process run the stage that the arguments begin with; return its exit code, or None without such a process."""
    folder, name = os.environ.get(WARM_VARIABLE), arguments[0]
    if not folder or name not in stage_names():
        return None
    library = find_stage(name).needs.loads
    if not library:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with _short_path(Path(folder)) as place:
                connection.connect(f"{place}/{library}")
        except OSError:
            return None
        request = {"arguments": list(arguments), "folder": str(Path.cwd()), "environment": dict(os.environ)}
        message = json.dumps(request).encode()
        socket.send_fds(connection, [len(message).to_bytes(_SIZE_BYTES)], _STREAMS)
        connection.sendall(message)
        answer = connection.recv(1)
    if not answer:
        print(f"nightdrive {name}: its process was killed before it ended", file=sys.stderr)
        return EXIT_FAILED
    return answer[0]


def serve(library: str, listener: socket.socket) -> None:
    """Load the library and fork a stage for every connection, for ever."""
    for name in (library, *_WITH.get(library, ()), "components.stage.command"):
        importlib.import_module(name)
    all_stages()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks answer for themselves: nobody waits for them
    server = os.getpid()
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run_fork(connection, server)
        connection.close()


def _run_fork(connection: socket.socket, server: int) -> None:
    """Run the stage that the connection asks for and end the process; it dies with its server and with its caller."""
    code = EXIT_FAILED
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        if os.getppid() == server:
            arguments = _become_caller(connection)
            threading.Thread(target=_die_with_caller, args=[connection], daemon=True).start()
            from components.stage.command import main

            code = main(arguments)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            connection.send(bytes([code]))
        os._exit(code)


def _become_caller(connection: socket.socket) -> list[str]:
    """Take over the caller's streams, folder and environment; return its arguments."""
    size, streams, _, _ = socket.recv_fds(connection, _SIZE_BYTES, len(_STREAMS))
    for own, given in zip(_STREAMS, streams, strict=True):
        os.dup2(given, own)
        os.close(given)
    with connection.makefile("rb") as reader:
        request = json.loads(reader.read(int.from_bytes(size)))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"] | {FORKED_VARIABLE: "yes"})
    return list(request["arguments"])


def _die_with_caller(connection: socket.socket) -> None:
    if not connection.recv(1):  # the caller says nothing more: it is gone
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
