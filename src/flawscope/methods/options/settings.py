"""Options of `flawscope fit` that are settings of a method, and the ways to give several of them at once."""

from __future__ import annotations

from flawscope.methods.options.record import (
    ITS_METHODS,
    METHOD,
    NOWHERE,
    NUMBER,
    SETTING,
    SIZES,
    VIEWS,
    FitOption,
    FormField,
)

SETTING_OPTIONS: tuple[FitOption, ...] = (
    FitOption(
        name="size",
        meaning="sizes that the network sees",
        group=VIEWS,
        role=SETTING,
        metavar="N|HxW|N+N",
        help="Size that the network sees (default: 256+512 pixels).",
        changes_input=True,
        search=SIZES,
        form=FormField(kind="text", pattern="^.{0,20}$"),
    ),
    FitOption(
        name="tile",
        group=VIEWS,
        role=SETTING,
        metavar="N|HxW",
        help="Tiles of so many pixels that a large picture is seen in, too.",
        changes_input=True,
        search=SIZES,
    ),
    FitOption(name="method", group=METHOD, role=SETTING, help="Method: {methods} (patchcore)."),
    FitOption(
        name="preset",
        meaning="named settings of the method",
        group=METHOD,
        role=SETTING,
        shared="settings",
        search=SIZES,
        form=FormField(kind="own", choices=("accurate", "small")),
    ),
    FitOption(name="config", group=METHOD, file=NOWHERE, shared="settings", names_files=True),
    FitOption(name="set", group=METHOD, file=NOWHERE, shared="settings"),
    FitOption(
        name="steps",
        group=METHOD,
        role=SETTING,
        metavar="N",
        help="Steps that {in_steps} learn in (default: as the device can).",
        exclusive="length",
        rare=True,
        benchmark=ITS_METHODS,
    ),
    FitOption(
        name="backbone",
        group=METHOD,
        role=SETTING,
        metavar="NAME",
        help="Network of timm that gives the features; see `flawscope backbones`.",
        rare=True,
        search=SIZES,
    ),
    FitOption(
        name="seed",
        group=METHOD,
        role=SETTING,
        value=NUMBER,
        help="Seed of splits and samples (default: 0).",
        rare=True,
    ),
)
