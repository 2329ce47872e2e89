"""The `glasskernel` command: options in, exit status out.

Owns: the commands, how errors are worded and which exit status they have.
Invariants: a user sees one clear line for every mistake (exit status 2) and never a Python traceback, unless
    GLASSKERNEL_TRACEBACK=1 asks for one. Nothing heavy is imported before the options are known to be right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from glasskernel.cli.options import log_options, machine_options, mkfs_options, process_options, trace_options

PROGRAM = "glasskernel"
EXIT_BUG = 125  # as env, timeout and docker run: "the wrapper itself failed"


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version(PROGRAM)
    except PackageNotFoundError:
        number = "(not installed: running from the source tree)"
    click.echo(f"{PROGRAM} {number}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def cli() -> None:
    """A Linux kernel you can see through: runs unmodified x86-64 programs."""


@cli.command(context_settings={"allow_interspersed_args": False})
@machine_options(pace="virtual")
@process_options
@log_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND on the kernel; its exit status becomes ours.

    127: no such program. 126: it cannot be executed. 128+N: killed by signal N.
    """
    from glasskernel.cli.run import run_command

    return run_command([list(command)], **options)


@cli.command()
@machine_options(pace="realtime")
@process_options
@log_options
def shell(**options: Any) -> int:
    """An interactive shell on the kernel."""
    from glasskernel.cli.shell import run_shell

    return run_shell(**options)


@cli.command(context_settings={"allow_interspersed_args": False})
@machine_options(pace="virtual")
@process_options
@trace_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def trace(command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND and show every function that it goes through, of the kernel, its libraries and itself.

    The call graph goes to stderr. With -o it is saved: .gkt (glasskernel report, diff), .pftrace and .json (Perfetto),
    .speedscope.json, .folded, .svg (a flame graph), .html (a timeline).
    """
    from glasskernel.cli.trace import run_trace

    return run_trace(list(command), **options)


@cli.command("report")
@click.argument("file", type=click.Path())
@click.option("--limit", type=click.IntRange(0), default=0, metavar="N", help="Only the first N functions.")
@click.option("--sort", type=click.Choice(["self", "total", "calls", "name"]), default="self", show_default=True)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Convert; the ending says to what.")
def report_(file: str, **options: Any) -> int:
    """Who called what, how often, and where the time went, in a saved trace."""
    from glasskernel.cli.traces import show_summary

    return show_summary(file, **options)


@cli.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option("--all", "everything", is_flag=True, help="Also what is the same in both.")
def diff(first: str, second: str, **options: Any) -> int:
    """What one run did that the other did not: two call graphs side by side. Exit status 1 if they differ."""
    from glasskernel.cli.traces import show_difference

    return show_difference(first, second, **options)


@cli.command()
@click.argument("function")
@click.option("--source", is_flag=True, help="Show its source, too.")
def where(function: str, source: bool) -> int:
    """Where a kernel function is: our file and line, the file of Linux that it stands for, what it does."""
    from glasskernel.cli.where import show_where

    return show_where(function, source)


@cli.command()
@click.argument("file", type=click.Path())
@mkfs_options
@click.option("--force", is_flag=True, help="Write over what the file holds.")
def mkfs(file: str, **options: Any) -> int:
    """Make an ext4, ext3 or ext2 file system in FILE, as mke2fs would."""
    from glasskernel.cli.image import make_file_system

    return make_file_system(file, **options)


@cli.group()
def image() -> None:
    """Build disk images and look into them."""


@image.command("build")
@click.argument("output", type=click.Path())
@click.argument("source", type=click.Path(exists=True))
@mkfs_options
@click.option("--force", is_flag=True, help="Write over what OUTPUT holds.")
def image_build(output: str, source: str, **options: Any) -> int:
    """Make an image OUTPUT with the files of SOURCE, a directory or a tar archive (for --root and --disk)."""
    from glasskernel.cli.image import build_image

    return build_image(output, source, **options)


@image.command("ls")
@click.argument("file", type=click.Path())
@click.argument("path", default="/")
def image_ls(file: str, path: str) -> int:
    """List PATH in the image FILE."""
    from glasskernel.cli.image import list_image

    return list_image(file, path)


@image.command("cat")
@click.argument("file", type=click.Path())
@click.argument("path")
def image_cat(file: str, path: str) -> int:
    """Show the contents of the file PATH in the image FILE."""
    from glasskernel.cli.image import show_file

    return show_file(file, path)


@image.command("extract")
@click.argument("file", type=click.Path())
@click.argument("path")
@click.argument("folder", type=click.Path(file_okay=False))
def image_extract(file: str, path: str, folder: str) -> int:
    """Copy PATH, and all below it, out of the image FILE into FOLDER."""
    from glasskernel.cli.image import extract_files

    return extract_files(file, path, folder)


def complain(message: str) -> None:
    """One line on stderr, in the form every Unix tool uses."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def dispatch(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit status. Raises nothing."""
    try:
        return int(cli.main(args=argv, prog_name=PROGRAM, standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return 2
    except click.ClickException as e:
        where = e.ctx.command_path if isinstance(e, click.UsageError) and e.ctx is not None else PROGRAM
        text = " ".join(e.format_message().split())
        print(f"{PROGRAM}: {text.rstrip('.')} (see {where} --help)", file=sys.stderr)
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + 2
    except BrokenPipeError:
        return 128 + 13
    except Exception as e:  # the one place that may: a bug of ours, told without a traceback
        return _bug(e)


def _bug(error: Exception) -> int:
    if os.environ.get("GLASSKERNEL_TRACEBACK") == "1":
        import traceback

        traceback.print_exception(error)
    else:
        what = " ".join(str(error).split())
        complain(f"this is a bug in Glasskernel: {type(error).__name__}{': ' if what else ''}{what}")
        complain("for the details to report, run it again with GLASSKERNEL_TRACEBACK=1")
    return EXIT_BUG


def main() -> NoReturn:
    """Entry point of the command. Leaves without tearing the kernel down: nobody needs that any more."""
    status = dispatch()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader is gone, and so is the need to tell it anything
            stream.flush()
    os._exit(status)
