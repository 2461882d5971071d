"""Setting `openid`: people sign in with a company's account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from flawscope.config import build_config
from flawscope.errors import InputError, require_installed
from flawscope_station.settings.values import resolve_paths

Role = Literal["viewer", "operator", "engineer", "admin"]


@dataclass(frozen=True)
class OpenIdSettings:
    """Settings of an OpenID Connect provider, such as Entra ID, Keycloak, Okta.

    issuer: address of the provider, below which `.well-known/openid-configuration` stands.
    client: ID under which the station is registered there.
    groups: role of each group's members; the highest one counts.
    secret_file: holds the client's secret; None: it has none (PKCE is used in any case).
    group_claim, name_claim: claims of the ID token with the groups, and with the name shown here.
    scope: what the station asks for; some providers want `groups` in it.
    ca_file: certificates to trust beside the usual.
    """

    issuer: str
    client: str
    groups: Mapping[str, Role]
    secret_file: str | None = None
    group_claim: str = "groups"
    name_claim: str = "preferred_username"
    scope: str = "openid profile email"
    ca_file: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        is_local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.hostname or not (parts.scheme == "https" or is_local):
            raise InputError(f"issuer: {self.issuer!r:.80} is not https://host/path")
        if not self.groups:
            raise InputError("groups names none: write `groups: {quality: operator}`")
        if "openid" not in self.scope.split():
            raise InputError("scope: begin it with openid")


def read_openid(given: Any, home: Path) -> OpenIdSettings | None:
    """Read the setting `openid`; paths are relative to `home`. InputError."""
    if given is None:
        return None
    require_installed(
        "setting openid", "authlib", "itsdangerous", extras="openid", package="flawscope-station"
    )
    try:
        if not isinstance(given, dict):
            raise InputError("write `issuer: https://...` below it")
        return resolve_paths(build_config(OpenIdSettings, given), home, "secret_file", "ca_file")
    except InputError as error:
        raise InputError(f"openid: {error}") from None
