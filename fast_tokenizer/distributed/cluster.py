"""The connection to a Ray cluster, and its errors as ours."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from typing import Any

from fast_tokenizer.errors import ClusterError

_HOST_AND_PORT = re.compile(r"([^:/]+):(\d{1,5})")
_SECONDS_TO_CONNECT = 10.0

#: How often Ray runs a task again that its memory monitor has ended, after 1, 2, 4, ... seconds; else for ever.
OOM_RETRIES = 6


def import_ray() -> Any:
    """The package. Raises ImportError that says how to install it."""
    try:
        import ray
    except ImportError:
        raise ImportError("engine=\"ray\" needs the package ray: pip install 'fast-tokenizer[ray]'") from None
    return ray


def connect(address: str | None = None) -> None:
    """Connects this process to a cluster, unless it is connected to one.

    Args:
        address: "auto", "host:port", or "local": one is started here, of all cores, for this process; as for
            `ray.init`. None: what the environment variable RAY_ADDRESS says, or the cluster started last on this
            machine; where there never was one, it is "local".

    Raises:
        ImportError: Ray is not installed.
        ClusterError: There is no cluster at this address, or no CPU in it; or this process is connected to another.
    """
    ray = import_ray()
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address is not None and _HOST_AND_PORT.fullmatch(address) and address != here:
            raise ClusterError(f"this process is connected to the Ray cluster at {here}, not to {address}")
    else:
        _require_listener(address)
        try:
            with _bounded_retries():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"no Ray cluster at {address or 'the usual places'}: {error}") from None
    if not nodes():
        raise ClusterError("no node of the Ray cluster has a CPU")


@contextlib.contextmanager
def _bounded_retries() -> Iterator[None]:
    """Sets `OOM_RETRIES`, unless the caller has: Ray reads it in this process, whoever started the cluster."""
    name = "RAY_task_oom_retries"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(OOM_RETRIES)
    try:
        yield
    finally:
        del os.environ[name]


def _require_listener(address: str | None) -> None:
    """Refuses an address where nobody listens: Ray would try for two minutes."""
    where, advice = address, ""
    if where in (None, "auto"):
        where, advice = os.environ.get("RAY_ADDRESS"), ", which RAY_ADDRESS names"
        if where in (None, "", "auto"):  # the cluster started last, which may be gone
            from ray._private.utils import read_ray_address

            where = read_ray_address()
            advice = (
                ', the last one started here; "ray stop" forgets it, address="local" (--address local) starts Ray anew'
            )
    found = _HOST_AND_PORT.fullmatch(where or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster at {where}: {error.strerror or error}{advice}") from None


def nodes() -> list[tuple[str, int]]:
    """The id and the whole CPUs of each node that has one, the largest first."""
    alive = [n for n in import_ray().nodes() if n["Alive"]]
    found = [(str(n["NodeID"]), int(n["Resources"].get("CPU", 0))) for n in alive]
    return sorted((n for n in found if n[1] > 0), key=lambda n: (-n[1], n[0]))


@contextlib.contextmanager
def plain_errors(doing: str, *passed_on: type[Exception]) -> Iterator[None]:
    """What was raised in a task is raised here as it was; what the cluster itself raises, as a ClusterError.

    Errors of the cluster that are `passed_on` come as they are.
    """
    exceptions = import_ray().exceptions
    try:
        yield
    except passed_on:
        raise
    except exceptions.RayError as error:
        cause = _cause(error, exceptions)
        if not isinstance(cause, exceptions.RayError):
            raise cause from None
        first_line = next((line for line in str(cause).splitlines() if line.strip()), "")
        raise ClusterError(f"{doing}: {type(cause).__name__}: {first_line.strip()}") from None


def _cause(error: BaseException, exceptions: Any) -> BaseException:
    """What a task raised, out of the errors that Ray wraps it in."""
    while True:
        inner = error.cause if isinstance(error, exceptions.RayTaskError) else None
        if inner is None and isinstance(error, exceptions.UserCodeException):
            inner = error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


@contextlib.contextmanager
def quiet_data() -> Iterator[None]:
    """Ray Data without its own progress bars and messages, in this context only."""
    import_ray()
    from ray.data import DataContext

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of options that Ray copies itself
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is raised
    try:
        with DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)
