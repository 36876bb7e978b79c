"""An error is one line, whatever it names."""

from perception.data.decoding import BadFrame
from perception.errors import InputError, shown


def test_a_name_steers_no_terminal_and_forges_no_line() -> None:
    name = "a\x1b]0;owned\x07\x1b[2J\nnightdrive: done\r\x9b31m\u202egnp.\udcff"
    for error in (InputError(f"{name}: is no file"), BadFrame(name, "is no file", "remove it")):
        assert str(error).startswith(r"a\x1b]0;owned\x07\x1b[2J\nnightdrive: done\r\x9b31m\u202egnp.\udcff: is no file")
        assert str(error).isprintable()
    assert shown("Ünïcode 夜 stays") == "Ünïcode 夜 stays"
