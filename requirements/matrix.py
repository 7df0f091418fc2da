"""Runs `make test` for both stacks and every supported Python that is there, and keeps the table of results.

    python requirements/matrix.py                      all of them, one after the other, and the table in README.md
    python requirements/matrix.py --stacks onedl --pythons 3.12
    python requirements/matrix.py --pythons 3.11 --torch 2.6.0 2.14.1

Each combination has an environment of its own, `.venv-matrix/STACK-PYTHON-TORCH`, and a log beside it. It takes as long as so
many test runs, and as much disk as so many environments.
"""

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / '.venv-matrix'
README = ROOT / 'README.md'
STACKS = ('upstream', 'onedl')
PYTHONS = ('3.10', '3.11', '3.12', '3.13', '3.14')
DEFAULT = 'default'  # the torch that make install takes
BEGIN, END = '<!-- tested: requirements/matrix.py -->', '<!-- /tested -->'
HEADER = '| stack | Python | torch | tests | date |\n|-|-|-|-|-|'


def interpreter(version: str) -> str | None:
    """The command of a Python that can make environments; None if it is not there."""
    managed = sorted(Path.home().glob(f'.pyenv/versions/{version}.*/bin/python{version}'))  # whose shims may not run
    for command in [shutil.which(f'python{version}'), *map(str, managed)]:
        if command and subprocess.run([command, '-c', 'import ensurepip'], capture_output=True, check=False).returncode == 0:
            return command
    return None


def test(stack: str, version: str, command: str, torch: str) -> tuple[str, bool]:
    """One row of the table, and whether all went well.

    Args:
        stack: 'upstream' or 'onedl'.
        version: of Python, such as '3.12'.
        command: its interpreter.
        torch: a version of torch, or DEFAULT.
    """
    name = f'{stack}-{version}-{torch}'
    log, venv = FOLDER / f'{name}.log', FOLDER / name
    started = time.monotonic()
    print(f'{name}: make test, log in {log}', flush=True)
    with log.open('w') as file:
        code = subprocess.run(['make', 'test', f'STACK={stack}', f'PYTHON={command}', f'VENV={venv}',
                               *([] if torch == DEFAULT else [f'TORCH={torch}'])], cwd=ROOT, stdout=file,
                              stderr=subprocess.STDOUT, check=False).returncode
    text = log.read_text(errors='replace')
    result = summary(text, code)
    print(f'{name}: {result}, {(time.monotonic() - started) / 60:.0f} minutes', flush=True)
    return f'| {stack} | {version} | {torch_version(venv)} | {result} | {date.today()} |', code == 0


def summary(text: str, code: int) -> str:
    """What a run of `make test` came to: pytest's numbers of tests, or how make failed.

    Args:
        text: its output.
        code: its exit code.
    """
    counted = re.findall(r'^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s', text, re.MULTILINE)
    if not counted:
        return f'make failed: {(text.strip().splitlines() or ["no output"])[-1][:80]}'
    result = re.sub(r', \d+ warnings?', '', counted[-1])
    return f'{result}, exit code {code}' if code and 'failed' not in result and 'error' not in result else result


def torch_version(venv: Path) -> str:
    found = sorted(venv.glob('lib/python*/site-packages/torch-*.dist-info'))
    return found[0].name.removeprefix('torch-').removesuffix('.dist-info') if found else '–'


def merge(text: str, rows: list[str]) -> str:
    """The README with these rows in place of those of the same stack, Python and torch.

    Args:
        text: the README.
        rows: of the table.
    """
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    known = {tuple(row.split('|')[1:4]): row for row in table.splitlines()[3:] if row.startswith('|')}
    known |= {tuple(row.split('|')[1:4]): row for row in rows}
    ordered = [known[key] for key in sorted(known, key=lambda key: (key[0].strip() != 'upstream', *key[1:]))]
    return f'{before}{BEGIN}\n' + '\n'.join([HEADER, *ordered]) + f'\n{END}{after}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stacks', nargs='+', choices=STACKS, default=STACKS)
    parser.add_argument('--pythons', nargs='+', choices=PYTHONS, help='by default all that are on this machine')
    parser.add_argument('--torch', nargs='+', default=[DEFAULT], metavar='VERSION', help='by default the one of make install')
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    rows, well = [], True
    for version in args.pythons or PYTHONS:
        command = interpreter(version)
        if command is None:
            print(f'Python {version} is not on this machine', flush=True)
            well &= not args.pythons  # it was asked for
            continue
        for stack, torch in itertools.product(args.stacks, args.torch):
            row, passed = test(stack, version, command, torch)
            rows.append(row)
            well &= passed
            README.write_text(merge(README.read_text(), rows))
    return 0 if well else 1


if __name__ == '__main__':
    sys.exit(main())
