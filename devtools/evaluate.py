"""``dev.py evaluate``: make and measure many trios on a ComfyUI, then a table and a page; can be resumed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from .console import Bar, Problem, say

PAIRS = 200
QUICK_PAIRS = 8
POLL_SECONDS = 1.0


def add_to(commands) -> None:
    """Register the command with dev.py's argument parser."""
    parser = commands.add_parser("evaluate", help="measure the layers over a list of prompts: table and pictures")
    parser.add_argument("--models", default="demo", metavar="demo|DIR",
                        help="demo; a folder of demo weights; or a folder with an SDXL checkpoint in checkpoints and "
                             "LayerDiffuse's files in layer_model (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, metavar="FILE",
                        help="lines of foreground | background; default: the list in evaluation/prompts for the models")
    parser.add_argument("--methods", default="main", metavar="main|choices|experiments|all|A,B",
                        help="settings to compare, see evaluation/methods.py (default: %(default)s)")
    parser.add_argument("--n", type=int, metavar="N", help=f"number of pairs (default: {PAIRS})")
    parser.add_argument("--evidence", action="store_true",
                        help="everything docs/evidence.md shows, and fill in its tables and pictures (demo models)")
    parser.add_argument("--quick", action="store_true",
                        help=f"{QUICK_PAIRS} pairs, for a first look; with --evidence: two minutes, page in the results' folder")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps")
    parser.add_argument("--metrics", type=Path, metavar="FOLDER",
                        help="the paper's Table 1 of --methods beside the rest; FOLDER: CLIP and Inception files, see "
                             "evaluation/table1.py")
    parser.add_argument("--study", type=int, metavar="N",
                        help="two pages on which people rate N pairs of --methods and of no blending from 1 to 5, beside the rest")
    parser.add_argument("--votes", type=Path, nargs="+", metavar="FILE",
                        help="only sum up the files that people saved on the study's pages")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes side by side; default: 2 on a CPU's demo run")
    parser.add_argument("--out", type=Path, default=Path("layerfusion-evaluation"), metavar="DIR",
                        help="where results go; what is there already is not made again (default: %(default)s)")


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Start the workers, follow their results and write the report."""
    if host is None:
        raise Problem("evaluate needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
    if options.evidence and (options.models != "demo" or options.prompts or options.steps):
        raise Problem("--evidence fixes models, prompts and settings; leave out --models, --prompts and --steps.")
    out = options.out.absolute()
    if options.votes:
        _script(checkout, "study", str(out), "--votes", *map(str, options.votes))
        say((out / "votes.md").read_text(encoding="utf-8"))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    (out / ".gitignore").write_text("*\n", encoding="utf-8")
    count = options.n or (QUICK_PAIRS if options.quick else PAIRS)
    command = [*_part(checkout, "run", host), "--out", str(out), "--models", options.models]
    if options.evidence:
        command += ["--plan", "quick" if options.quick else "full"]
    else:
        methods = options.methods + (",reference" if options.metrics else "")
        command += ["--methods", methods, "--n", str(count)]
    for name in ("prompts", "steps"):
        if getattr(options, name):
            command += [f"--{name}", str(getattr(options, name))]
    jobs = options.jobs or (min(2, os.cpu_count() or 1) if options.models == "demo" else 1)
    if options.quick and not options.evidence:
        command += ["--batch", str(max(1, count // (2 * jobs)))]
    started = time.monotonic()
    _work(command, jobs, out)
    if options.evidence:
        _evidence(checkout, host, out, options.quick)
    if not options.evidence:
        _script(checkout, "report", str(out))
    if options.metrics:
        _script(checkout, "table1", str(out), "--metrics", str(options.metrics.absolute()))
        say((out / "table1.md").read_text(encoding="utf-8"))
    if options.study:
        _script(checkout, "study", str(out), "--methods", options.methods, "--pairs", str(options.study))
        say(f"  {out / 'study' / 'index.html'}")
    say((out / "table.md").read_text(encoding="utf-8"))
    say(f"{time.monotonic() - started:.0f} s")
    for name in ("results.jsonl", "table.md", "table.csv", "index.html"):
        say(f"  {out / name}")
    return 0


def _evidence(checkout: Path, host: Path, out: Path, quick: bool) -> None:
    """What the page needs beside the trios, and the page: in docs, or, being quick, in the results' folder."""
    few = ["--n", "3"] if quick else []
    for name in ("decode_truth", "priors_figure"):
        _script(checkout, name, "--out", str(out), *few, host=host)
    _script(checkout, "truth", str(out), *(["--quick"] if quick else []))
    page = checkout / "docs" / "evidence.md"
    _script(checkout, "report", str(out), "--page", str(page), *(["--to", str(out / "page")] if quick else []))
    say(f"  {(out / 'page' if quick else checkout / 'docs') / page.name}")


def _part(checkout: Path, name: str, host: Path | None = None) -> list[str]:
    """The command that runs a part of the evaluation, on a host where it needs one."""
    return [sys.executable, str(checkout / "evaluation"), *(["--host", str(host)] if host else []), name]


def _script(checkout: Path, name: str, *arguments: str, host: Path | None = None) -> None:
    """Run a part of the evaluation to its end; Problem if it fails."""
    done = subprocess.run([*_part(checkout, name, host), *arguments], env=_variables(), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise Problem(f"{name} failed:\n" + "\n".join(done.stdout.splitlines()[-12:]))


def _variables() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", **os.environ, "HF_HUB_OFFLINE": "1"}


def _work(command: list[str], jobs: int, out: Path) -> None:
    """Run the workers side by side and show their progress; Problem with the end of a worker's output if one fails."""
    logs = [out / f"worker-{number + 1}.log" for number in range(jobs)]
    workers = []
    try:
        for number, log in enumerate(logs):
            with log.open("w", encoding="utf-8") as file:
                workers.append(subprocess.Popen([*command, "--shard", f"{number + 1}/{jobs}"], env=_variables(),
                                                stdout=file, stderr=subprocess.STDOUT))
        bar, total = Bar("trios"), 0
        while any(worker.poll() is None for worker in workers):
            time.sleep(POLL_SECONDS)
            done, total = progress(logs)
            if total:
                bar.show(done, total)
        bar.close()
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
    for worker, log in zip(workers, logs):
        if worker.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
            raise Problem(f"A worker failed; its whole output is in {log}\n{tail}\nRun this again to resume.")


def progress(logs: list[Path]) -> tuple[int, int]:
    """(done, total) trios of all workers: the numbers of the last "done D of T" line in each log."""
    done = total = 0
    for log in logs:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                 if line.startswith("done ")]
        if lines:
            words = lines[-1].split()
            done, total = done + int(words[1]), total + int(words[3])
    return done, total
