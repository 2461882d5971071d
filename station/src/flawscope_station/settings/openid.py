"""Setting `openid`: people sign in with a company's account."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic.dataclasses import dataclass

from flawscope.errors import InputError, require_installed
from flawscope_station.settings.values import CONFIG, FilePath, Section

Role = Literal["viewer", "operator", "engineer", "admin"]


@dataclass(frozen=True, config=CONFIG)
class OpenIdSettings(Section):
    """Settings of an OpenID Connect provider, such as Entra ID, Keycloak, Okta.

    Attributes:
        issuer: Address of the provider; `.well-known/openid-configuration` lies below it.
        client: ID under which the station is registered at the provider.
        groups: Role of each group's members; the highest one counts.
        secret_file: File with the client's secret; None: the client has none (PKCE is used in any case).
        group_claim: Claim of the ID token with the groups.
        name_claim: Claim of the ID token with the name that the pages show.
        scope: Scope that the station asks for; some providers want `groups` in it.
        ca_file: File of certificates to trust, besides those that the system trusts.
    """

    issuer: str
    client: str
    groups: dict[str, Role]
    secret_file: FilePath | None = None
    group_claim: str = "groups"
    name_claim: str = "preferred_username"
    scope: str = "openid profile email"
    ca_file: FilePath | None = None

    def __post_init__(self) -> None:
        """Check the settings, and whether the packages for OpenID are installed.

        Raises:
            InputError: A setting is wrong, or a package is missing.
        """
        require_installed(
            "setting openid", "authlib", "itsdangerous", extras="openid", package="flawscope-station"
        )
        parts = urlsplit(self.issuer)
        is_local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.hostname or not (parts.scheme == "https" or is_local):
            raise InputError(f"issuer: {self.issuer!r:.80} is not https://host/path")
        if not self.groups:
            raise InputError("groups names none: write `groups: {quality: operator}`")
        if "openid" not in self.scope.split():
            raise InputError("scope: begin it with openid")
