"""Starting the processes of a job from a command line, and turning their errors into an exit code and one line."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable
from urllib.parse import urlsplit

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from semask_d2 import d2
from semask_d2.d2 import comm, default_argument_parser
from semask_d2.engine import roll_call
from semask_d2.engine.failures import LESS_MEMORY, MORE_SHARED_MEMORY, explain
from semask_d2.engine.stopping import Stopped, passing_signals_on
from semask_d2.utils.errors import UserError, printable

logger = logging.getLogger(__name__)


def start(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call `main(args)` in every process of the job.

    If torchrun started this process, the job is torchrun's; otherwise --num-gpus, --num-machines, --machine-rank and
    --dist-url define it. A `dist_url` of None stands for Detectron2's default.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        main(args)
        # only after success: it can hang while other ranks wait for communication, and would delay an error message
        torch.distributed.destroy_process_group()
        return
    _check_processes(args.num_gpus)
    if args.dist_url is None:
        args.dist_url = default_argument_parser().get_default("dist_url")
    if args.num_gpus * args.num_machines > 1:
        _check_port(args)
        with passing_signals_on():
            d2.launch(_worker, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(main, args))
    else:
        main(args)


def guarded(function: Callable[..., None], *args: object, debug: bool) -> int:
    """Call `function(*args)` and return an exit code: 0, or 1 after a user error, which is printed as one line.

    Failures of the machine, such as running out of memory, count as user errors.
    """
    # Detectron2's training loop logs the traceback of every exception
    loop = logging.getLogger("detectron2.engine.train_loop")
    if not debug:
        loop.addFilter(_is_unexplained)
    try:
        function(*args)
    except ProcessExitedException as error:
        if error.signal_name:
            print(f"error: {ended_by_signal(error)}", file=sys.stderr, flush=True)
        return error.exit_code if error.exit_code > 0 else 1  # a process that exits by itself has printed why
    except BrokenPipeError:  # the reader of our output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if debug:
            traceback.print_exc()
        sys.stdout.flush()
        if isinstance(error, Stopped):
            if not message:  # the main process prints it; an error code here would end the main process first
                return 0
            print(printable(message), file=sys.stderr, flush=True)
            return error.exit_code
        if roll_call.waited_in_vain(error):
            message = roll_call.describe(error)
        if message:
            print(f"error: {printable(message)}", file=sys.stderr, flush=True)
        return 1
    finally:
        loop.removeFilter(_is_unexplained)
    return 0


def ended_by_signal(error: ProcessExitedException) -> str:
    """Return a message that names the signal that ended a process of the run, and its usual cause."""
    reasons = {
        "SIGKILL": "usually by the operating system because memory ran out: " + LESS_MEMORY,
        "SIGBUS": "usually because shared memory ran out: " + MORE_SHARED_MEMORY,
        "SIGSEGV": "a crash in compiled code; please report it with the log",
    }
    reason = reasons.get(error.signal_name or "", "from outside")
    return f"process {error.error_index} of this machine was ended by {error.signal_name}, {reason}"


def _is_unexplained(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Exception) and explain(error))


def _worker(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run one of several processes on this machine; on a CPU they share the cores."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    code = guarded(main, args, debug=args.debug)
    if code:
        sys.exit(code)


def _check_processes(num_gpus: int) -> None:
    if num_gpus < 1:
        raise UserError(f"--num-gpus: expected at least 1 (also on a CPU), got {num_gpus}")
    if torch.cuda.is_available() and num_gpus > torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise UserError(f"--num-gpus {num_gpus}: this machine has {have} GPU{'s' if have > 1 else ''}; use {have}")


def _check_port(args: argparse.Namespace) -> None:
    """Raise `UserError` if the port for the communication of processes is in use."""
    if args.machine_rank or not args.dist_url.startswith("tcp:"):
        return
    try:
        port = urlsplit(args.dist_url).port
    except ValueError:
        port = None
    if port is None:
        raise UserError(f"--dist-url {args.dist_url}: expected tcp://HOST:PORT, or auto on a single machine")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # permits a port that was just released
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--dist-url {args.dist_url}: port {port} cannot be used ({error.strerror}); an earlier run may still "
                "be running; choose another port, or auto on a single machine"
            ) from error


def _join_torchrun() -> None:
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        _check_processes(local_size)
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    comm.create_local_process_group(local_size)
