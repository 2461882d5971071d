"""Options of `flawscope fit` that are settings of a method, or that give several settings at once."""

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
        meaning="sizes at which the network sees the picture",
        group=VIEWS,
        role=SETTING,
        metavar="N|HxW|N+N",
        help="Size at which the network sees pictures (default: 256+512 pixels).",
        changes_input=True,
        search=SIZES,
        form=FormField(kind="text", pattern="^.{0,20}$"),
    ),
    FitOption(
        name="tile",
        group=VIEWS,
        role=SETTING,
        metavar="N|HxW",
        help="Size of tiles, in pixels, in which a large picture is seen, too.",
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
        help="Number of steps in which {in_steps} learn (default: by the device).",
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
