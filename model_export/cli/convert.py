"""The `convert` command: writes weights as timm or torchvision read them."""

from __future__ import annotations

import argparse
import logging
from typing import get_args

from model_export.cli.options import check_new_folder, check_writable, path
from model_export.cli.weight_options import add_network_options, load_weight_file
from model_export.weights.converting import Target, check_convertible, write_for_timm, write_for_torchvision
from service.runtime.disk import new_folder

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="a .pth or .safetensors file")
    parser.add_argument(
        "--to",
        choices=get_args(Target),
        required=True,
        help="timm: model.safetensors and config.json; torchvision: a .pth state dict, labels.json and transforms.json",
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to write; must be new or empty")
    network = parser.add_argument_group("the network", "not needed if FILE, or the files beside it, record it")
    add_network_options(network, family="(default: imagenet)", variant="; never guessed")
    network.add_argument("--labels", type=path, help="file of class names, if FILE has none: .txt, .json, .tsv or .csv")


def run(args: argparse.Namespace) -> int:
    """Writes the files; on an error, nothing.

    Raises:
        InputError: the weights cannot be used, the target has no such network, or the folder is not empty.
        OSError: the files cannot be written.
    """
    check_new_folder(args.out)
    check_writable(args.out.parent)
    loaded = load_weight_file(args.file, args)
    check_convertible(loaded, args.to)
    write = write_for_timm if args.to == "timm" else write_for_torchvision
    with new_folder(args.out) as folder:
        write(loaded, folder)
        names = ", ".join(sorted(file.name for file in folder.iterdir()))
    log.info("%s: wrote %s", args.out, names)
    return 0
