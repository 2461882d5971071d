"""Sign-in with a company's account: OpenID Connect's authorization code flow with PKCE, by Authlib.

Authlib makes and checks state, nonce and code verifier, and the ID token's signature and claims. It reads the
provider's keys again where it does not know one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authlib.integrations.starlette_client import OAuth

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.station.access.roles import ROLES
from flawscope.station.settings.openid import OpenId
from flawscope.station.settings.values import secret, trusting

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PATIENCE = 10.0  # seconds that the provider may take for an answer
LEEWAY = 60  # seconds that its clock may be off
_PUBLIC = ("RS", "PS", "ES", "Ed")  # signatures whose key is no secret: nobody else can make one


class ProviderError(FlawscopeError):
    """The provider does not answer, or its answer is not valid."""


@dataclass(frozen=True)
class Member:
    """A company's member, as the provider says.

    subject: issuer and ID of the account.
    role: "": no group of the member has one.
    """

    subject: str
    name: str
    role: str


class Provider:
    """An OpenID Connect provider. Methods raise ProviderError."""

    def __init__(self, settings: OpenId):
        self._settings = settings
        try:
            trusted = trusting(settings.ca_file)
        except InputError as error:
            raise InputError(f"openid: ca_file: {error}") from None
        key = None if settings.secret_file is None else secret(settings.secret_file, "openid: secret_file")
        self._client: Any = OAuth().register(
            "company",
            client_id=settings.client,
            client_secret=key,
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": settings.scope,
                "code_challenge_method": "S256",
                "verify": trusted,
                "timeout": PATIENCE,
            },
        )

    async def begin(self, request: Request, back: str) -> Response:
        """Redirect to the provider, which leads to the address `back`. The request's session keeps state."""
        try:
            await self._load()
            answer: Response = await self._client.authorize_redirect(request, back)
        except Exception as error:  # whatever another side sends
            raise _failed(error) from error
        return answer

    async def end(self, request: Request) -> Member:
        """Return who signed in."""
        settings = self._settings
        options = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client},
        }
        try:
            await self._load()
            told = await self._client.authorize_access_token(request, claims_options=options, leeway=LEEWAY)
            claims = told["userinfo"]
            groups = claims.get(settings.group_claim) or ()
            groups = [groups] if isinstance(groups, str) else list(groups)
            subject, name = f"{settings.issuer} {claims['sub']}", str(claims.get(settings.name_claim) or "")
        except Exception as error:  # whatever another side sends
            raise _failed(error) from error
        roles = [settings.groups[one] for one in groups if one in settings.groups]
        return Member(subject, name, max(roles, key=ROLES.index, default=""))

    async def _load(self) -> None:
        """Read what the provider says of itself, once, and check that it is the one of the settings."""
        told = await self._client.load_server_metadata()
        if told.get("issuer") != self._settings.issuer:
            told.pop("_loaded_at", None)
            raise InputError(f"it calls itself {told.get('issuer')!r:.100}: write that as `issuer`")
        allowed = told.get("id_token_signing_alg_values_supported") or ["RS256"]
        told["id_token_signing_alg_values_supported"] = [one for one in allowed if one.startswith(_PUBLIC)]


def _failed(error: Exception) -> ProviderError:
    return ProviderError(one_line(error) or type(error).__name__)
