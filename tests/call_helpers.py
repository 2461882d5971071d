"""Calls of the command line that are refused."""


def one_line(found):
    """The error: exactly one line on stderr, nothing on stdout."""
    _, printed, said = found
    assert printed == ""
    assert said.startswith("flawscope: ")
    assert said.count("\n") == 1
    return said


EAD, PRN = ["--method", "efficientad"], ["--method", "prnet"]
