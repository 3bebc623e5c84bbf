"""The command `serve`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

import typer

from broadline.cli_classify import ModelName
from broadline.errors import UsageError
from broadline.progress import say

__all__ = ["serve"]

_SHORTEST = 16  # characters of a token
_GRACE = 5  # seconds beyond a request's own limit, for what is under way at the end


def serve(
    model: ModelName = "default",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's own must be given.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(envvar="BROADLINE_TOKEN", help="What requests must show [a new secret, printed]."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the network [all cores].")] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="MB (2^20 bytes) of a request; of JSON a quarter.")] = 64,
    max_spectra: Annotated[int, typer.Option(min=1, help="Spectra of a request.")] = 4096,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that a request may take.")] = 60,
) -> None:
    """Classify spectra that other programs send over HTTP: JSON or Arrow in, results out.

    What comes at the same time shares a call of the network. Ends when it is interrupted, once all that is
    under way has been answered.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"serving needs more packages: pip install 'broadline[serve]' ({error})") from error
    from broadline.named_models import load_model
    from broadline.serve.app import application
    from broadline.serve.limits import Limits
    from broadline.web import listen, new_token, run

    if token is not None and not re.fullmatch(rf"[\w.~+/-]{{{_SHORTEST},}}=*", token, re.ASCII):
        raise UsageError(
            f"a token has {_SHORTEST} letters, digits or -._~+/ at least; leave --token out for a new one"
        )
    loaded = load_model(model, threads=threads)
    limits = Limits(max_mb * 2**20, max_spectra, timeout)
    with listen(port, host) as listening:
        address, number = listening.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        if not _is_loopback(address):
            say(f"warning: {host} can be reached from elsewhere; neither token nor spectra are encrypted")
        secret = token or new_token()
        shown = "the one given" if token else secret
        typer.echo(f"serving {loaded.name} at http://{name}:{number} (token: {shown}; Ctrl-C ends)")
        app = application(loaded, secret, limits, _names(address, name))
        run(app, listening, timeout + _GRACE)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _names(address: str, name: str) -> frozenset[str] | None:
    """Return what a server at an address may be called; who listens to others may have any name."""
    from broadline.web import LOOPBACK

    return LOOPBACK | {name} if _is_loopback(address) else None
