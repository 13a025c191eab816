"""The command line: `resnet COMMAND`, `resnet-export COMMAND` or `python -m model_export COMMAND`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from model_export.errors import CheckFailed, InputError
from resnet_commands import EXPORT_EXTRA, called, run_program

DESCRIPTION = "Train, evaluate, convert and publish ResNet models for the service, and look after published models."

EPILOG = (
    "Exit status: 0 if all is well, 1 after an error or a check that failed, 2 if the command line cannot be read or "
    "something is not installed, 130 after Ctrl-C, 143 after SIGTERM."
)

# Name and help text of each command. It is implemented by `add_options` and `run` in model_export/cli/<name>.py.
COMMANDS = {
    "quickstart": "Fill an empty model folder: ImageNet weights or, if they cannot be downloaded, the demo.",
    "export": "Convert a network to ONNX, check that its answers stay the same, and publish it.",
    "convert": "Write weights as timm or torchvision read them.",
    "list": "List the published models.",
    "draw": "Draw pictures of shapes and patterns, as folders to train and to validate on.",
    "train": "Train a network of the paper on your own images, CIFAR-10 or drawings.",
    "find-lr": "Look for a learning rate: train a few steps with a rising one, and draw the loss against it.",
    "evaluate": "Measure the accuracy of models on a data set, and of their ensemble if there are several.",
    "quantize": "Compare int8, fp16 or bf16 with fp32, and publish a version that may be served in it.",
    "study": "Repeat one of the paper's comparisons (degradation, shortcuts, depth), or print a table of all networks.",
    "demo": "Train the demo, a ResNet-18 that classifies drawings, and write its weights (three to eight minutes).",
    "verify": "Check the digests and self-tests of published models.",
    "inspect": "Print the cards of published models.",
    "triton-config": "Write the configurations with which Triton serves the published models.",
    "preview": "Show what the network sees of an image, and what it answers, here and on another provider.",
    "default": "Name the model that answers requests which name none.",
    "promote": "Make a version the one that clients get, or that with another alias.",
    "rollback": "Give clients the version that they had before.",
    "remove": "Remove a version that nobody gets, or an alias.",
    "prune": "Remove old versions, and what killed commands have left.",
}


class _ShowVersion(argparse.Action):
    """Finds the versions out only when asked: that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from service.runtime.build import this_build

        print(this_build())
        parser.exit()


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        command: the one to run. Only its module is imported: most need PyTorch, which takes seconds.
    """
    parser = argparse.ArgumentParser(prog=called("model_export"), description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print which build this is")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=text)
        if name == command:
            module = import_module(f"model_export.cli.{name.replace('-', '_')}")
            module.add_options(subparser)
            subparser.epilog = f"{subparser.epilog} {EPILOG}" if subparser.epilog else EPILOG
            subparser.set_defaults(run=module.run, parser=subparser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit status: 0, or after one sentence on stderr 1, or 2 if what it needs is not
    installed.

    A command that is interrupted or terminated returns 128 + the signal's number, as `train` does that was stopped.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("model_export", "service"):  # not the root logger: at this level httpx and the exporter log, too
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        with _terminated_by_exception():
            return run_program(_run, arguments, EXPORT_EXTRA, "service")
    except KeyboardInterrupt as interrupt:  # perhaps during the imports, which take seconds
        print("interrupted: no unfinished model is published; downloads and trainings can be resumed", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT)


def _run(arguments: Sequence[str]) -> int:
    args, unknown = make_parser(arguments[0] if arguments else None).parse_known_args(arguments)
    if unknown:  # `parse_args` would show the usage of all commands together, which has none of their options
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")

    from service.runtime.model_folder import CardError
    from service.runtime.providers import ProviderUnavailable  # needs ONNX Runtime, which an extra installs
    from service.runtime.self_test import SelfTestFailed

    try:
        status = int(args.run(args))
        sys.stdout.flush()  # a full disk is reported here; at interpreter exit nothing would catch the error
        return status
    except BrokenPipeError:  # the reader has gone, as with `| head`
        _discard_output()
    # Their message is all a user needs. ValueError: an impossible network or model name.
    except (InputError, CheckFailed, CardError, ProviderUnavailable, SelfTestFailed, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # the disk is full: what cannot be written would change the exit status to 120
            _discard_output()
    return 1


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which Docker, Kubernetes and systemd end a command."""


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """SIGTERM ends what runs in this context as Ctrl-C does: temporary folders are removed."""

    def terminate(*_: object) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _discard_output() -> None:
    """Drops what is still to be written to standard output, which the interpreter would try again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
