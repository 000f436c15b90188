"""The one command of this checkout: demo, tests and a server to try by hand. Needs nothing but Python 3.10 or newer.

    python dev.py demo     three layers out of a real ComfyUI, with the small demonstration models
    python dev.py test     the tests this machine can run
    python dev.py serve    the same ComfyUI with the page open in a browser

This file runs under any Python. It prepares an environment (``devtools/environment.py``) and starts itself again
inside it, because the commands proper need torch and friends.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit("LayerFusion needs Python 3.10 or newer; this is %d.%d." % sys.version_info[:2])

from devtools import bench, environment, evaluate, hosts, locales, pictures, schema
from devtools.console import Problem, say

CHECKOUT = Path(__file__).absolute().parent  # not resolved: a linked checkout belongs to the folder of the link


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: the options of the command and, for ``test``, what goes on to pytest."""
    parser = argparse.ArgumentParser(prog="dev.py", description="Demo, tests and a server for LayerFusion.")
    commands = parser.add_subparsers(dest="command", required=True,
                                     metavar="demo | test | serve | evaluate | bench | pictures | schema | locales")

    demo = commands.add_parser("demo", help="generate the three layers once and write them to a folder")
    demo.add_argument("--foreground", metavar="TEXT", help='what to cut out, for example "a red apple"')
    demo.add_argument("--background", metavar="TEXT", help='what lies behind it, for example "a wooden table"')
    demo.add_argument("--blended", metavar="TEXT", help="prompt of the composite; made from the two others when empty")
    demo.add_argument("--seed", type=int, metavar="N")
    demo.add_argument("--steps", type=int, metavar="N")
    demo.add_argument("--out", type=Path, default=Path("layerfusion-demo"), metavar="DIR",
                      help="where the pictures go (default: %(default)s)")
    demo.add_argument("--engine", choices=["comfyui", "reference"],
                      help="comfyui: the node pack in a real server; reference: the paper written plainly on diffusers")

    commands.add_parser("test", help="run the tests this machine can run; further arguments go to pytest",
                        add_help=False)

    serve = commands.add_parser("serve", help="start ComfyUI with this pack and open its page")
    serve.add_argument("--port", type=int, metavar="N", help="default: 8188 when free, else the next free one")
    serve.add_argument("--no-browser", action="store_true", help="do not open a page")

    evaluate.add_to(commands)
    bench.add_to(commands)
    pictures.add_to(commands)
    schema.add_to(commands)
    locales.add_to(commands)

    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "test":
        parser.error("unknown arguments: " + " ".join(rest))
    return options, rest


def prepare(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Environment and host for a command: (python executable, ComfyUI folder or None)."""
    python = environment.find_or_make(CHECKOUT)
    wants_host = getattr(options, "engine", None) != "reference"
    host = hosts.find(CHECKOUT) if wants_host else None
    if wants_host and host is None:
        host = hosts.install()
    if host is not None:
        say(f"ComfyUI {hosts.version(host)} in {host}")
    table1 = getattr(options, "metrics", None) or (options.command == "test" and host)  # the host tier has tests of it
    environment.install(python, CHECKOUT, host, evaluation=bool(table1))
    return python, host


def main(argv: list[str]) -> int:
    options, rest = parse(argv)
    try:
        if os.environ.get("LAYERFUSION_DEV_READY") != "1":
            python, host = prepare(options)
            variables = {**os.environ, "LAYERFUSION_DEV_READY": "1", "LAYERFUSION_DEV_HOST": str(host or "")}
            return wait([str(python), str(CHECKOUT / "dev.py"), *argv], variables)
        host = Path(os.environ["LAYERFUSION_DEV_HOST"]) if os.environ.get("LAYERFUSION_DEV_HOST") else None
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended tidies up as Ctrl-C does
        command = importlib.import_module(f"devtools.{'testing' if options.command == 'test' else options.command}")
        return command.run(CHECKOUT, host, rest if options.command == "test" else options)
    except Problem as problem:
        say(f"Stopped: {problem}")
        return 1
    except KeyboardInterrupt:
        return 130


def wait(command: list[str], variables: dict[str, str]) -> int:
    """Run the command and give back its exit code; Ctrl-C reaches it too, so let it tidy up before we leave."""
    with subprocess.Popen(command, env=variables) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
