"""Users of a station: `station user add NAME --role ROLE`, `station token add NAME`; copies of all that it
keeps: `station backup FILE`, `station restore FILE`. The station may be running meanwhile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope import cli
from flawscope.errors import InputError, suggest_name
from flawscope_station.access.roles import ROLES

if TYPE_CHECKING:
    from flawscope_station.access.authenticator import Access
    from flawscope_station.settings.sources import CameraSourceSettings
    from flawscope_station.settings.station import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = _add_subparsers(parser, "WHAT")
    user = _add_subparsers(_add_parser(what, "user", "people, who sign in with a password"), "VERB")
    text = "let somebody sign in; asks for the password, or reads it as a line"
    add = _add_verb(user, "add", _add_user, text)
    _add_name(add)
    _add_role(add, ROLES[1:], "operator")
    text = "no longer let somebody sign in, and end their sessions"
    _add_name(_add_verb(user, "remove", _remove_user, text))
    _add_name(_add_verb(user, "password", _set_password, "give somebody a new one, and end their sessions"))
    _add_verb(user, "list", _list_users, "show names, roles, since when")

    token = _add_subparsers(_add_parser(what, "token", "secrets for programs"), "VERB")
    add = _add_verb(token, "add", _add_token, "print a new one; nobody can see it again")
    _add_name(add)
    _add_role(add, ROLES, "operator")
    add.add_argument("--expires", metavar="TIME", help='such as "90 days" (default: never)')
    _add_name(_add_verb(token, "remove", _remove_token, "no longer accept one"))
    _add_verb(token, "list", _list_tokens, "show names, roles, since when, until when, last use")

    text = "copy what a station keeps into one file, while it runs; PostgreSQL's data base is for pg_dump"
    _add_file(_add_verb(what, "backup", _backup, text), "that is made; it must not be there yet")
    text = "make a station from a backup in an empty folder; PostgreSQL's data base is for pg_restore"
    _add_file(_add_verb(what, "restore", _restore, text), "that `backup` made")

    latency = _add_parser(what, "latency", "measure how far a camera is behind, with a screen that it sees")
    latency.set_defaults(call=_latency, debug=False)
    latency.add_argument("settings", metavar="SETTINGS", help="station.yaml")
    latency.add_argument("camera", metavar="PRODUCT[/N]", help="the product's only camera, or its Nth one")
    latency.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="0.0.0.0: for a telephone (default: 127.0.0.1)"
    )
    latency.add_argument("--port", type=cli.parse_port, default=8090, metavar="N", help="default: 8090")


def run(args: argparse.Namespace) -> int:
    return int(args.call(args) or 0)


# ------------------------------------------------------------------------------------------ users and tokens


def _add_user(args: argparse.Namespace) -> None:
    with _open_access(args, make=True) as access:
        access.users.add(args.name, _password(args.name), args.role)
    cli.say(f"user {args.name} can sign in as {args.role}")


def _remove_user(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        access.users.remove(args.name)
        cli.say(f"user {args.name} is removed and signed out")
        _say_if_open(access)


def _set_password(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        access.users.set_password(args.name, _password(args.name))
    cli.say(f"user {args.name} has a new password and is signed out")


def _list_users(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        rows = [(one.name, one.role, _utc(one.created_at)) for one in access.users.all()]
        _show(rows, ("user", "role", "since"), access)


def _add_token(args: argparse.Namespace) -> None:
    from flawscope_station.settings.values import parse_age

    seconds = None if args.expires is None else parse_age(args.expires, "--expires: ")
    with _open_access(args, make=True) as access:
        secret = access.tokens.add(args.name, args.role, expires=seconds)
    cli.show(secret)
    cli.say("this is shown once; programs send it as `Authorization: Bearer TOKEN`")


def _remove_token(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        access.tokens.remove(args.name)
        cli.say(f"token {args.name} is removed")
        _say_if_open(access)


def _list_tokens(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        rows = [
            (t.name, t.role, *map(_utc, (t.created_at, t.expires_at, t.used_at))) for t in access.tokens.all()
        ]
        _show(rows, ("token", "role", "since", "expires", "last used"), access)


def _password(name: str) -> str:
    """Asks for the password, or reads it from stdin: all users can see a process's arguments."""
    if sys.stdin.isatty():
        password = getpass(f"password of {name}: ")
        if getpass("the same again: ") != password:
            raise InputError("the two passwords differ: nothing was changed, try again")
        return password
    line = sys.stdin.readline()
    if not line:
        raise InputError(
            "no password: write it as one line to the standard input, or call this in a terminal"
        )
    return line.rstrip("\r\n")


def _show(rows: Sequence[tuple[str, ...]], header: tuple[str, ...], access: Access) -> None:
    if rows:
        cli.show(cli.format_table(rows, header))
    else:
        cli.say(f"no {header[0]}s")
        _say_if_open(access)


def _say_if_open(access: Access) -> None:
    if access.is_open:
        cli.say(
            "without users and tokens everybody on the station's machine may do everything, others nothing"
        )


def _utc(at: int | None) -> str:
    from flawscope_station.store.records import iso

    return "never" if at is None else iso(at)[:16].replace("T", " ") + " UTC"


# ----------------------------------------------------------------------------------------- backup and restore


def _backup(args: argparse.Namespace) -> None:
    from flawscope_station.store.backup import backup

    cli.show(f"{args.file}: {backup(station_settings(args), args.file) / 1e6:.1f} MB")


def _restore(args: argparse.Namespace) -> None:
    from flawscope_station.store.backup import restore

    settings = station_settings(args)
    cli.show(f"{settings.store}: {restore(args.file, settings) / 1e6:.1f} MB")


# ---------------------------------------------------------------------------------------------------- cameras


def _latency(args: argparse.Namespace) -> None:
    from flawscope_station.settings.station import read_settings
    from flawscope_station.sources.latency import CHANGES, SECONDS_APART, LightPage, measure_latency

    settings = read_settings(args.settings)
    camera = _find_camera(settings, args.camera)
    page = LightPage(args.host, args.port)
    try:
        cli.say(f"open http://{args.host}:{page.port} in a browser, and fill the camera's view with it")
        while not page.opened.wait(1.0):
            pass
        cli.say(f"measuring for {CHANGES * sum(SECONDS_APART) / 2:.0f} s: nothing may move before the camera")
        found = measure_latency(camera, settings.limits.pixels, page.set_light)
    finally:
        page.close()
    shortest, longest, interval = (
        f"{1000 * s:.0f} ms" for s in (found.shortest, found.longest, found.interval)
    )
    cli.show(f"{args.camera}: {shortest} to {longest} behind, a frame each {interval}")
    cli.show(f"write `latency: {1000 * found.setting:.0f} ms` below it")
    rest = 1000 * (found.setting - found.shortest + found.interval)
    cli.say(f"a part must rest under it for {rest:.0f} ms after its trigger")


def _find_camera(settings: Settings, name: str) -> CameraSourceSettings:
    """A camera of a product, as `PRODUCT` or `PRODUCT/2`. InputError."""
    from flawscope_station.settings.sources import CameraSourceSettings, FolderSourceSettings

    product, _, number = name.partition("/")
    if product not in settings.products:
        raise InputError(f"there is no product {product}: {suggest_name(product, settings.products)}")
    sources = settings.products[product].all_sources
    others = [
        one for one in sources if not isinstance(one, FolderSourceSettings)
    ]  # numbered as at the station
    cameras = {
        str(place): one for place, one in enumerate(others, 1) if isinstance(one, CameraSourceSettings)
    }
    if not number and len(cameras) == 1:
        return next(iter(cameras.values()))
    if number in cameras:
        return cameras[number]
    there = (
        " or ".join(f"{product}/{place}" for place in cameras) or "a stream or a device below its `sources`"
    )
    raise InputError(f"{name} is no camera whose latency can be measured: name {there}")


# --------------------------------------------------------------------------------------------------- stations


def station_settings(args: argparse.Namespace) -> Settings:
    """Settings by `--settings` or `--station`."""
    from flawscope_station.settings.station import DEFAULT_FOLDER, Settings, read_settings

    return read_settings(args.settings) if args.settings else Settings(store=args.station or DEFAULT_FOLDER)


@contextmanager
def _open_access(args: argparse.Namespace, *, make: bool = False) -> Iterator[Access]:
    """Opens users and tokens of a station. make: a missing station is created."""
    from flawscope_station.access.authenticator import Access
    from flawscope_station.settings.station import DATABASE_FILE
    from flawscope_station.store.database import Database

    settings = station_settings(args)
    home = Path(settings.store)
    if settings.database is None and not (home / DATABASE_FILE).is_file():
        if not make:
            raise InputError(
                f"there is no station in {home}: name its folder with --station, or its file with --settings"
            )
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{home} cannot be made: {error.strerror}; choose another --station") from None
        cli.say(f"this is a new station, in {home}")
    database = Database(settings.url)
    try:
        database.migrate()
        yield Access(database)
    finally:
        database.close()


# -------------------------------------------------------------------------------------------------- arguments


def _add_subparsers(parser: argparse.ArgumentParser, metavar: str) -> Any:
    return parser.add_subparsers(metavar=metavar, dest=metavar.lower(), required=True)


def _add_parser(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, formatter_class=cli.HelpFormatter
    )
    return parser


def _add_verb(
    verbs: Any, name: str, call: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Adds a sub-command that `call` runs."""
    parser = _add_parser(verbs, name, text)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--station", metavar="DIR", help="folder of its store (default: station)")
    which.add_argument("--settings", metavar="FILE", help="its station.yaml")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(call=call)
    return parser


def _add_file(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("file", metavar="FILE.tar", help=text)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="letters, digits and . _ - + @")


def _add_role(parser: argparse.ArgumentParser, roles: Sequence[str], default: str) -> None:
    parser.add_argument(
        "--role",
        choices=roles,
        default=default,
        help=("sender: only sends pictures; " if ROLES[0] in roles else "")
        + "viewer: only looks; operator: looks, sends and judges; engineer: also models and exports; admin: "
        f"everything (default: {default})",
    )
