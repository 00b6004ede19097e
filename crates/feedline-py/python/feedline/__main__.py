"""``python -m feedline``: all commands of the command line tool but those that need a network of Feedline's own."""

import signal
import sys

from . import _native


NETWORK = ("train", "launch", "eval", "export", "predict", "compare", "report")


def main() -> int:
    if sys.argv[1:] and sys.argv[1] in NETWORK:
        print(
            f"{sys.argv[1]} is a command of the Rust program. From Python, torch trains: see "
            "examples/python/train_classification.py; torchrun starts several ranks",
            file=sys.stderr,
        )
        return 2
    # The commands are native code, which would not see Python's KeyboardInterrupt.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.main(["python -m feedline", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
