"""Feed a reader with damaged files, drawn by libFuzzer to reach code that was not reached before.

    python tools/fuzz.py TARGET FOLDER [libFuzzer's options, such as -max_total_time=60]

The targets are those of `fuzz_targets.TARGETS`. Files that reach more code are kept in FOLDER/TARGET. What is
not answered by one line is written there as `crash-...`: make it a row of `tests/tools/test_fuzz_targets.py`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris


def main() -> None:
    """Run a target until it fails or its time is over."""
    name, kept, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["sgnet_nnunet", "nibabel"]):
        from fuzz_targets import TARGETS  # noqa: PLC0415 - instrumented as it is imported
    target, corpus = TARGETS[name], Path(kept, name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    with TemporaryDirectory() as folder:
        atheris.Setup(
            [sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/", "-timeout=20", *options],
            lambda content: target.check(Path(folder), content),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
