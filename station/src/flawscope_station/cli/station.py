"""Manage a station, which may be running: users, tokens, backups, settings, and models for many stations."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope import cli
from flawscope.errors import InputError
from flawscope_station.access.roles import ROLES, SENDER

if TYPE_CHECKING:
    from flawscope_station.access.authenticator import Access
    from flawscope_station.settings.station import Settings

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `flawscope station`, each with its arguments."""
    commands = _add_subparsers(parser, "WHAT")
    user = _add_subparsers(
        _add_parser(commands, "user", "Manage the people who sign in with a password."), "VERB"
    )
    text = "Let a person sign in. The password is asked for, or read from standard input as one line."
    add = _add_verb(user, "add", _add_user, text)
    _add_name(add)
    _add_role(add, ROLES[1:], "operator")  # a person cannot have the first role, sender
    text = "No longer let a person sign in, and end their sessions."
    _add_name(_add_verb(user, "remove", _remove_user, text))
    _add_name(_add_verb(user, "password", _set_password, "Set a person's password, and end their sessions."))
    _add_verb(user, "list", _list_users, "List the users, with role and date.")

    token = _add_subparsers(
        _add_parser(commands, "token", "Manage the tokens by which programs sign in."), "VERB"
    )
    add = _add_verb(token, "add", _add_token, "Make a token, and print it: nobody can see it again.")
    _add_name(add)
    _add_role(add, ROLES, "operator")
    add.add_argument(
        "--expires", metavar="TIME", help='Time after which it ends, such as "90 days" (default: never).'
    )
    _add_name(_add_verb(token, "remove", _remove_token, "No longer accept a token."))
    _add_verb(token, "list", _list_tokens, "List the tokens, with role, dates and last use.")

    text = "Copy what a station keeps into one file, while it runs. Copy a PostgreSQL database with pg_dump."
    backup = _add_verb(commands, "backup", _backup, text)
    _add_file(backup, "File to make; it must not be there yet.")
    backup.add_argument(
        "--tables", action="store_true", help="Copy the SQLite database alone, as before an upgrade."
    )
    text = "Make a station from a backup, in an empty folder. Restore a PostgreSQL database with pg_restore."
    restore = _add_verb(commands, "restore", _restore, text)
    _add_file(restore, "Backup to restore.")
    text = "Replace the database of the same station, which must not be running, by the backup's."
    mode = restore.add_mutually_exclusive_group()
    mode.add_argument("--tables", action="store_true", help=text)
    mode.add_argument(
        "--verify", action="store_true", help="Read and check the whole backup; restore nothing."
    )

    text = (
        "Write one archive for support: settings without secrets, problems, threads, events, versions, disk."
    )
    report = _add_verb(commands, "report", _report, text)
    report.add_argument("--out", metavar="FILE.zip", required=True, help="Archive to write.")

    text = "Give a model to many stations: to the first, then to the others. After alarms all go back."
    rollout = _add_parser(commands, "rollout", text)
    rollout.set_defaults(call=_rollout, debug=False)
    rollout.add_argument("model", metavar="MODEL", help="Model file.")
    rollout.add_argument(
        "--stations",
        metavar="FILE",
        required=True,
        help="YAML file of stations: `url` and `product`.",
    )
    text = "Minutes that the first station, then the others, must work without alarms (default: 60)."
    rollout.add_argument("--minutes", type=float, default=60.0, metavar="N", help=text)

    text = "Fetch the pictures that people corrected at many stations, as one training set."
    corrections = _add_parser(commands, "corrections", text)
    corrections.set_defaults(call=_corrections, debug=False)
    corrections.add_argument(
        "--stations",
        metavar="FILE",
        required=True,
        help="YAML file of stations: `url` and `product`.",
    )
    corrections.add_argument("--out", metavar="DIR", required=True, help="Folder for the pictures.")

    text = "Check the settings and all that they name, and start nothing."
    check = _add_parser(commands, "check", text)
    check.set_defaults(call=_check, debug=False)
    check.add_argument("settings", metavar="SETTINGS", help="The station.yaml to check.")


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand and return its exit code."""
    return int(args.call(args) or 0)


# ------------------------------------------------------------------------------------------ users and tokens


def _add_user(args: argparse.Namespace) -> None:
    """Add a user. With the first user, print that everybody must sign in from now on."""
    with _open_access(args, make=True) as access:
        was_open = access.is_open
        access.users.add(args.name, _password(args.name), args.role)
        has_admin = "admin" in [user.role for user in access.users.all()]
    cli.say(f"user {args.name} can sign in as {args.role}")
    if was_open:
        cli.say("from now on everybody signs in, also on this machine")
    if not has_admin:
        cli.say("nobody is an administrator yet: `flawscope station user add NAME --role admin` adds one")


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
        rows = [(user.name, user.role, _utc(user.created_at)) for user in access.users.all()]
        _show(rows, ("user", "role", "since"), access)


def _add_token(args: argparse.Namespace) -> None:
    """Make a token and print it. With the first token, print that every program needs one from now on."""
    from flawscope_station.settings.values import parse_age

    lifetime_seconds = None if args.expires is None else parse_age(args.expires, "--expires: ")
    with _open_access(args, make=True) as access:
        was_open = access.is_open
        secret = access.tokens.add(args.name, args.role, expires=lifetime_seconds)
    cli.show(secret)
    cli.say("this is shown once; programs send it as `Authorization: Bearer TOKEN`")
    if was_open:
        cli.say(
            "from now on every program needs a token, and whoever opens the pages signs in: `flawscope "
            "station user add NAME --role admin` adds the first user"
        )


def _remove_token(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        access.tokens.remove(args.name)
        cli.say(f"token {args.name} is removed")
        _say_if_open(access)


def _list_tokens(args: argparse.Namespace) -> None:
    with _open_access(args) as access:
        rows = [
            (token.name, token.role, _utc(token.created_at), _utc(token.expires_at), _utc(token.used_at))
            for token in access.tokens.all()
        ]
        _show(rows, ("token", "role", "since", "expires", "last used"), access)


def _password(name: str) -> str:
    """Return the password for the user `name`.

    At a terminal, ask for it twice; else read a line from standard input. The password is no argument of the
    command, because all users of a machine can see the arguments of a process.
    """
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
    """Print a table of users or tokens, or a line that there are none.

    Args:
        rows: Cells of each row.
        header: Headings of the columns; the first one is `user` or `token`.
        access: Users and tokens of the station.
    """
    if rows:
        cli.show(cli.format_table(rows, header))
    else:
        cli.say(f"no {header[0]}s")
        _say_if_open(access)


def _say_if_open(access: Access) -> None:
    """Print who may use a station that has no users and no tokens."""
    if access.is_open:
        cli.say(
            "without users and tokens everybody on the station's machine may do everything, others nothing"
        )


def _utc(microseconds: int | None) -> str:
    """Return a time as text, such as `2026-01-31 08:00 UTC`.

    Args:
        microseconds: Time in microseconds since 1970; None: the text is "never".
    """
    from flawscope_station.store.records import iso

    if microseconds is None:
        return "never"
    iso_minutes = iso(microseconds)[: len("2026-01-31T08:00")]
    return f"{iso_minutes.replace('T', ' ')} UTC"


# ----------------------------------------------------------------------------------------- backup and restore


def _backup(args: argparse.Namespace) -> None:
    """Write a backup, with the settings files if `--settings` is given, and print its size."""
    from flawscope_station.settings.includes import settings_files
    from flawscope_station.store.backup import backup

    copied_settings = settings_files(args.settings) if args.settings else []
    size_bytes = backup(
        station_settings(args), args.file, tables_only=args.tables, settings_files=copied_settings
    )
    cli.show(f"{args.file}: {size_bytes / 1e6:.1f} MB")
    if not (copied_settings or args.tables):
        cli.say("the settings file is not in it: name it with --settings, if there is one")


def _restore(args: argparse.Namespace) -> None:
    """Restore a whole backup.

    With `--tables`, restore only the database. With `--verify`, only check the backup.
    """
    from flawscope_station.store.backup import restore, restore_tables

    if args.verify:
        _verify(args.file)
        return
    settings = station_settings(args)
    if args.tables:
        replaced_folder = restore_tables(args.file, settings)
        cli.say(f"the database before is kept in {replaced_folder}")
        return
    size_bytes = restore(args.file, settings)
    cli.show(f"{settings.store}: {size_bytes / 1e6:.1f} MB")
    settings_folder = Path(settings.store) / "settings"
    if settings_folder.is_dir():
        cli.say(f"the settings file is in {settings_folder}: look at its paths before it is used")


def _verify(file: str) -> None:
    from flawscope_station.store.backup_check import verify

    content = verify(file)  # raises where the backup is damaged
    records = "without a database" if content.inspections is None else f"{content.inspections} inspections"
    settings_files = "with" if content.settings_file else "without"
    cli.show(f"{file}: whole; {content.files} files, {records}, {settings_files} the settings file")
    if content.missing:
        cli.say(f"{content.missing} files that records name are not in it: removed while it was made")


# --------------------------------------------------------------------------------------------------- stations


def _report(args: argparse.Namespace) -> None:
    from flawscope_station.cli.report import write_report

    missing = write_report(station_settings(args), args.out)
    cli.show(args.out)
    for line in missing:
        cli.say(f"missing: {line}")


def _rollout(args: argparse.Namespace) -> int:
    """Give a model to many stations; return 0, or 1 where the stations went back to earlier versions."""
    from flawscope_station.cli.rollout import read_stations, roll_out

    stations = read_stations(args.stations)
    command = ["flawscope", "station", "rollout", args.model]
    command += ["--stations", args.stations, "--minutes", f"{args.minutes:g}"]
    # SIGTERM raises KeyboardInterrupt, as Ctrl-C does; then the stations go back to their earlier versions
    earlier_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        is_rolled_out = roll_out(args.model, stations, args.minutes * 60, cli.show, shlex.join(command))
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)
    return 0 if is_rolled_out else 1


def _corrections(args: argparse.Namespace) -> None:
    """Fetch the corrections of many stations, and say how many pictures there are."""
    from flawscope_station.cli.corrections import PICTURES, collect
    from flawscope_station.cli.rollout import read_stations

    count = collect(read_stations(args.stations), Path(args.out), cli.show)
    cli.show(f"{Path(args.out) / PICTURES}: {count} pictures")


def _check(args: argparse.Namespace) -> int:
    """Check the settings and print their faults; return the exit code: 1 if there are faults, else 0."""
    from flawscope_station.cli.check import find_faults
    from flawscope_station.settings.station import read_settings
    from flawscope_station.web.templates import PAGES

    outcomes = list(find_faults(read_settings(args.settings)))
    faults = [fault for fault in outcomes if fault is not None]
    for fault in faults:
        cli.show(fault)
    for line in PAGES.missing_texts:  # no fault: the pages have these texts in English
        cli.say(line)
    cli.say(f"{args.settings}: {len(outcomes)} things looked at, {len(faults) or 'nothing'} wrong")
    return 1 if faults else 0


def station_settings(args: argparse.Namespace) -> Settings:
    """Return the settings that `--settings` or `--station` names."""
    from flawscope_station.settings.station import DEFAULT_FOLDER, Settings, read_settings

    return read_settings(args.settings) if args.settings else Settings(store=args.station or DEFAULT_FOLDER)


@contextmanager
def _open_access(args: argparse.Namespace, *, make: bool = False) -> Iterator[Access]:
    """Open the users and tokens of a station.

    The tables are not migrated, because the station may be running.

    Args:
        args: Arguments of the command.
        make: Whether to create the station if there is none.

    Raises:
        InputError: There is no station, or its folder cannot be made.
    """
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
        cli.say(
            f"this is a new station, in {home}; where yours lies elsewhere, name its folder with --station"
        )
    database = Database(settings.url)
    try:
        if not database.check_tables():
            if not make:
                raise InputError(
                    f"there is no station in {database.name}: start it once, or name another one"
                )
            database.make_tables()
        yield Access(database)
    finally:
        database.close()


# -------------------------------------------------------------------------------------------------- arguments


def _add_subparsers(parser: argparse.ArgumentParser, metavar: str) -> Verbs:
    return parser.add_subparsers(title="commands", metavar=metavar, dest=metavar.lower(), required=True)


def _add_parser(verbs: Verbs, name: str, text: str) -> argparse.ArgumentParser:
    """Add a subcommand, with `text` as its help, and return its parser."""
    parser = verbs.add_parser(
        name, help=text, description=text, formatter_class=cli.HelpFormatter, add_help=False
    )
    parser.add_argument("-h", "--help", action="help", help="Show this help.")
    return parser


def _add_verb(
    verbs: Verbs, name: str, call: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Add a subcommand that works on one station, and return its parser.

    Args:
        verbs: Subparsers to which it is added.
        name: Name of the subcommand.
        call: Function that runs it, and returns the exit code; None: 0.
        text: Help of the subcommand.
    """
    parser = _add_parser(verbs, name, text)
    folder_or_settings = parser.add_mutually_exclusive_group()
    folder_or_settings.add_argument(
        "--station", metavar="DIR", help="Folder of the station (default: station)."
    )
    folder_or_settings.add_argument("--settings", metavar="FILE", help="Its station.yaml.")
    parser.add_argument("--debug", action="store_true", help="Show where an error came from.")
    parser.set_defaults(call=call)
    return parser


def _add_file(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("file", metavar="FILE.tar", help=text)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="Name, of letters, digits and . _ - + @.")


def _add_role(parser: argparse.ArgumentParser, roles: Sequence[str], default: str) -> None:
    sender_help = "A sender sends pictures. " if SENDER in roles else ""
    parser.add_argument(
        "--role",
        choices=roles,
        default=default,
        help=f"{sender_help}A viewer looks; an operator sends and reviews pictures, too; an engineer makes "
        f"and exports models, too; an admin does everything (default: {default}).",
    )
