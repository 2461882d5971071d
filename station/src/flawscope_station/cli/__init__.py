"""Commands of the station, which `flawscope` finds by their entry point: help and module by name."""

COMMANDS = {
    "serve": ("a station: a page and an API that inspect and remember", "flawscope_station.cli.serve"),
    "station": ("users and tokens of a station", "flawscope_station.cli.station"),
}
