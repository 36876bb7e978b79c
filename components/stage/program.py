"""How a command line ends, the same for every one: done, failed, bad usage or input told in one line, refused by a gate, interrupted."""

import sys
from collections.abc import Sequence

import click

from components.stage.failures import machine_failure
from perception.errors import InputError, Unreachable

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_REFUSED = 0, 1, 2, 3
STATUS_OF_EXIT = {EXIT_DONE: "done", EXIT_FAILED: "failed", EXIT_BAD_INPUT: "bad_input", EXIT_REFUSED: "refused"}
EXIT_OF_STATUS = {status: code for code, status in STATUS_OF_EXIT.items()}
EXIT_INTERRUPTED = 130


def run_program(program: click.Command, arguments: Sequence[str], name: str) -> int:
    """Run a click program and return its exit code; only a fault of ours ends with a traceback."""
    try:
        code = program.main(args=list(arguments), prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else EXIT_DONE
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_BAD_INPUT
    except click.ClickException as error:
        asked = getattr(error, "ctx", None)
        hint = f" (see `{asked.command_path} --help`)" if asked else ""
        print(f"nightdrive: {error.format_message().rstrip('.')}{hint}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, Unreachable) else EXIT_BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:
        said = machine_failure(error)
        if said is None:
            raise
        print(f"nightdrive: {said}", file=sys.stderr)
        return EXIT_FAILED
