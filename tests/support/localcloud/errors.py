"""What the API answers when it refuses: one class, and the refusals by name.

Status and code pairs are those of Hetzner's OpenAPI document (copy of May 2026), section "Errors"
and the tables "Operation specific errors"; codes it does not fix a status for are 422 as in its
other tables. Messages are ours unless noted: clients must match on codes.
"""

from __future__ import annotations

from typing import Any

import attrs

Json = dict[str, Any]


@attrs.frozen
class ApiError(Exception):
    """An error envelope with its HTTP status."""

    status: int
    code: str
    message: str
    details: Json | None = None

    def body(self) -> Json:
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


def invalid_input(field: str, message: str) -> ApiError:
    details = {"fields": [{"name": field, "messages": [message]}]}
    return ApiError(422, "invalid_input", f"invalid input in field '{field}': {message}", details)


def json_error() -> ApiError:
    return ApiError(400, "json_error", "invalid JSON input in your request")


def unauthorized() -> ApiError:
    return ApiError(401, "unauthorized", "unable to authenticate")


def token_readonly() -> ApiError:
    return ApiError(401, "token_readonly", "token is only allowed to perform GET requests")


def forbidden(message: str) -> ApiError:
    return ApiError(403, "forbidden", message)


def limit_exceeded(limit: str) -> ApiError:
    """`limit` such as `dedicated_core_limit`."""
    words = limit.removesuffix("_limit").replace("_", " ")
    details = {"limits": [{"name": limit}]}
    return ApiError(403, "resource_limit_exceeded", f"{words} limit exceeded", details)


def not_found(kind: str, ident: object) -> ApiError:
    return ApiError(404, "not_found", f"{kind} with ID '{ident}' not found")


def no_route() -> ApiError:
    return ApiError(404, "not_found", "not found")


def method_not_allowed() -> ApiError:
    return ApiError(405, "method_not_allowed", "method not allowed")


def uniqueness(field: str, message: str) -> ApiError:
    return ApiError(409, "uniqueness_error", message, {"fields": [{"name": field}]})


def gone(announcement: str) -> ApiError:
    details = {"announcement": announcement}
    return ApiError(410, "deprecated_api_endpoint", "API functionality was removed", details)


def resource_unavailable() -> ApiError:
    """Message and the null details as captured in jenkins hetzner-cloud-plugin issue 21."""
    return ApiError(412, "resource_unavailable", "error during placement")


def locked(kind: str, ident: int) -> ApiError:
    return ApiError(423, "locked", f"{kind} {ident} is locked")


def protected(kind: str) -> ApiError:
    return ApiError(423, "protected", f"{kind} is delete protected")


def rate_limited() -> ApiError:
    return ApiError(429, "rate_limit_exceeded", "limit of 3600 requests per hour reached")


def unprocessable(code: str, message: str) -> ApiError:
    """The operation-specific ones, all 422: `resource_in_use`, `must_be_unassigned`, …"""
    return ApiError(422, code, message)
