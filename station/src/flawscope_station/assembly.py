"""The station as it is served: the core and its features, which add themselves by `core.extension`."""

from __future__ import annotations

from collections.abc import Callable

from flawscope_station.access.roles import ADMIN, ENGINEER
from flawscope_station.challenge.challenge import Challenge
from flawscope_station.core.extension import Extension, MenuLink
from flawscope_station.core.station import Station
from flawscope_station.drift.assembly import Drift
from flawscope_station.learning.candidates import Learning
from flawscope_station.learning.jobs import JobQueue
from flawscope_station.settings.station import Settings
from flawscope_station.setup.drafts import Drafts
from flawscope_station.setup.live_products import LiveProducts
from flawscope_station.web import challenge_api, drift_api, models_api, plugin_pages, setup_api, shifts_api


def open_station(settings: Settings, say: Callable[[str], None] = lambda line: None) -> Station:
    """Make a station with all features. InputError: folder, database or a model cannot be used."""
    return Station(settings, say, FEATURES)


def _drift_extension(core: Station) -> Extension:
    settings_by_id = {core.products[name]: settings for name, settings in core.settings.products.items()}
    drift = Drift(settings_by_id, core.store, core.versions, core.addresses.names, core.report)
    return Extension(
        components=(drift,),
        services=(drift.monitor,),
        observers=(drift.observe,),
        interlocks=(drift.camera,),  # checks of the cameras
        on_added=(drift.add_product,),
        gauges=(drift.monitor.gauges,),
        routers=(drift_api.router,),
    )


def _learning_extension(core: Station) -> Extension:
    learn_settings = {name: product.learn for name, product in core.settings.products.items()}
    queue = JobQueue(core.database)
    learning = Learning(queue, core.versions, core.products, learn_settings, core.report, core.say)
    return Extension(
        components=(learning, queue),
        services=(queue,),
        on_verdict=(lambda product_id: learning.wake(),),
        routers=(models_api.router, models_api.page_router),
    )


def _new_products_extension(core: Station) -> Extension:
    limits = core.settings.limits
    device = core.settings.device
    queue = core.components[JobQueue]
    memory = core.inspector.memory
    # a PLC's `recipes` name the product of each recipe; other connections may have none
    recipes = [getattr(connection.values, "recipes", {}) for connection in core.settings.connections]
    recipe_products = {product for recipe in recipes for product in recipe.values()}
    drafts = Drafts(queue, core.files, limits, memory, device, lambda: bool(core.products), core.say)
    live_products = LiveProducts(
        core.with_model, recipe_products, core.addresses, core.sources, drafts, core.health
    )
    return Extension(
        components=(drafts, live_products),
        services=(drafts.checks,),
        routers=(setup_api.router, setup_api.page_router),
        menu=(MenuLink("/-/new", "new.title", ENGINEER),),
        request_enders=(drafts.end_trials,),
    )


def _challenge_extension(core: Station) -> Extension:
    settings = core.settings
    names = core.addresses.names
    settings_by_name = core.addresses.settings
    product_settings = lambda number: settings_by_name[names[number]]  # noqa: E731
    engine_and_device = settings.engine, settings.device
    challenge = Challenge(
        product_settings, engine_and_device, settings.shifts, names, core.renderer, core.report
    )
    for number in core.products.values():
        challenge.add_product(number)
    return Extension(
        components=(challenge,),
        services=(challenge,),
        interlocks=(challenge,),
        gates=(challenge,),
        on_added=(lambda number, name, product: challenge.add_product(number),),
        gauges=(challenge.gauges,),
        routers=(challenge_api.router, challenge_api.page_router),
        menu=(MenuLink("/{product}/challenge", "challenge.title"),),
    )


def _shifts_extension(core: Station) -> Extension:
    return Extension(routers=(shifts_api.router,))


def _records_extension(core: Station) -> Extension:
    problems = MenuLink("/{product}/problems", "problems.title")
    return Extension(menu=(problems, MenuLink("/-/audit", "audit.title", ADMIN)))


def _plugin_pages_extension(core: Station) -> Extension:
    pages = plugin_pages.PluginPages(core.addresses, core.records, core.components, core.report)
    for page in core.settings.pages:
        pages.open(page)
    return Extension(routers=(pages.router,), menu=pages.links)


# The camera's interlock comes last: it remembers what the challenge's has released
FEATURES = (
    _records_extension,
    _challenge_extension,
    _drift_extension,
    _learning_extension,
    _new_products_extension,
    _shifts_extension,
    _plugin_pages_extension,
)
