"""Entry point of `sgnet`: signals, errors as one line, and the exit status.

The commands are in `cli.app`, imported once signals are handled: half a second in which a signal would end
Python with a traceback. The top of this module therefore imports what Python has loaded, and `signal`.
"""

import os
import signal
import sys
from _thread import allocate_lock  # `threading` takes a millisecond
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GRACE = 1.5
"""Seconds that a command has to remove its unfinished files after a signal."""

_interrupted = allocate_lock()
"""Held from the first signal on."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit status.

    An SGNetError is printed as it is. Of any other error the line names the file or value, if it is known,
    and the log with the traceback; the exit status is 1. A signal ends the process with 128 + its number.

    Args:
        argv: Arguments without the program's name; by default those of the process, which then also ends
            on signals.
    """
    if argv is None:
        _end_on_signals()
    arguments = sys.argv[1:] if argv is None else argv
    if not sys.warnoptions:
        import warnings  # noqa: PLC0415

        # Warnings of other packages are for developers; worker processes inherit the variable.
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        from sgnet_nnunet.cli.app import app  # noqa: PLC0415

        app(args=[argument for argument in arguments if argument != "--debug"], prog_name="sgnet")
    except Exception as error:
        sys.exit(_report(error, arguments))
    except SystemExit as ended:
        if argv is None and ended.code in {128 + each for each in SIGNALS}:
            os._exit(ended.code)  # the end of Python waits for all threads
        raise


def _report(error: Exception, arguments: list[str]) -> int:
    """Print an error as one line, and return the exit status."""
    import traceback  # noqa: PLC0415

    from sgnet_nnunet.cli.console import err, say  # noqa: PLC0415
    from sgnet_nnunet.errors import SGNetError, describe  # noqa: PLC0415

    trace = "".join(traceback.format_exception(error))
    if "--debug" in arguments:
        for line in trace.splitlines():
            say(line, console=err)
    if isinstance(error, SGNetError):
        say(f"sgnet: {error}", console=err, style="bold red")
        return error.exit_status
    log = "" if "--debug" in arguments else _write_log(f"sgnet {' '.join(arguments)}\n\n{trace}")
    say(f"sgnet: {describe(error)}{log}", console=err, style="bold red")
    return 1


def _write_log(text: str) -> str:
    """Write a log that only its owner can read; return what to say of it."""
    import tempfile  # noqa: PLC0415

    try:
        descriptor, name = tempfile.mkstemp(prefix="sgnet-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(text)
    except OSError:
        return "; repeat the command with --debug for the traceback"
    return f"; the traceback is in {name}"


def _end_on_signals() -> None:
    """Have a signal raise SystemExit, and end the process `GRACE` seconds later at the latest."""
    handled = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]  # as under nohup
    for each in handled:
        signal.signal(each, _end)
    import atexit  # noqa: PLC0415
    import threading  # noqa: PLC0415

    for each in handled:
        # Python restores the default handlers last; a signal would then replace the exit status.
        atexit.register(signal.signal, each, signal.SIG_IGN)
    # The thread receives a signal also while the main thread computes outside Python, where no handler runs.
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(receiver,), daemon=True).start()


def _end(number: int, frame: FrameType | None) -> None:
    """Let the command remove its unfinished files; a second signal does not wait for that."""
    for each in SIGNALS:
        signal.signal(each, lambda again, _: os._exit(128 + again))
    _stop_output()
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os._exit(128 + number)  # an exception aborts the process in the midst of a C++ module
        frame = frame.f_back
    sys.exit(128 + number)


def _end_in_time(receiver: int) -> None:
    import time  # noqa: PLC0415

    (number,) = os.read(receiver, 1)
    _stop_output()
    time.sleep(GRACE)
    os._exit(128 + number)


def _stop_output() -> None:
    """Report the signal, stop all output, and kill the workers; the second call does nothing."""
    if not _interrupted.acquire(blocking=False):
        return
    cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    os.write(2, f"{cursor}\nsgnet: interrupted; no file is half-written\n".encode())
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    except Exception:  # noqa: S110 - not imported yet; the workers also end by themselves
        pass
