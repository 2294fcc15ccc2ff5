"""burst_lifecycle.cloud.retry: every code's meaning, as a table; never a message's."""

from __future__ import annotations

import pytest

from burst_lifecycle import errors
from burst_lifecycle.cloud.retry import Failure, Pace, Safety, Where, again_s, poll_s, to_error
from burst_lifecycle.errors import CloudProblem

CREATE, READ, REPEATABLE = Safety.CREATE, Safety.READ, Safety.REPEATABLE

TABLE: list[tuple[int, str, type[CloudProblem], type[CloudProblem], bool]] = [
    # status, code, what a create raises, what a repeatable change raises, whether that is repeated
    (400, "json_error", errors.CloudProblem, errors.CloudProblem, False),
    (401, "unauthorized", errors.Unauthorized, errors.Unauthorized, False),
    (401, "token_readonly", errors.Unauthorized, errors.Unauthorized, False),
    (403, "forbidden", errors.Unauthorized, errors.Unauthorized, False),
    (403, "maintenance", errors.Busy, errors.Busy, True),
    (403, "resource_limit_exceeded", errors.QuotaExceeded, errors.QuotaExceeded, False),
    (422, "limit_exceeded_error", errors.QuotaExceeded, errors.QuotaExceeded, False),
    (404, "not_found", errors.NotFound, errors.NotFound, False),
    (405, "method_not_allowed", errors.CloudProblem, errors.CloudProblem, False),
    (409, "uniqueness_error", errors.NameTaken, errors.NameTaken, False),
    (409, "conflict", errors.Busy, errors.Busy, True),
    (410, "deprecated_api_endpoint", errors.CloudProblem, errors.CloudProblem, False),
    (412, "resource_unavailable", errors.NoCapacity, errors.NoCapacity, False),
    (422, "placement_error", errors.NoCapacity, errors.NoCapacity, False),
    (422, "no_space_left_in_location", errors.NoCapacity, errors.NoCapacity, False),
    (422, "invalid_input", errors.CloudProblem, errors.CloudProblem, False),
    (422, "unsupported_error", errors.CloudProblem, errors.CloudProblem, False),
    (422, "resource_in_use", errors.Busy, errors.Busy, True),
    (422, "must_be_unassigned", errors.Busy, errors.Busy, True),
    (422, "volume_already_attached", errors.Busy, errors.Busy, False),
    (422, "a_code_of_tomorrow", errors.CloudProblem, errors.CloudProblem, False),
    (422, "service_error", errors.Ambiguous, errors.Ambiguous, True),
    (423, "locked", errors.Busy, errors.Busy, True),
    (423, "protected", errors.CloudProblem, errors.CloudProblem, False),
    (429, "rate_limit_exceeded", errors.Busy, errors.Busy, True),
    (429, "", errors.Busy, errors.Busy, True),
    (500, "server_error", errors.Ambiguous, errors.Ambiguous, True),
    (500, "a_code_of_tomorrow", errors.Ambiguous, errors.Ambiguous, True),
    (502, "", errors.Ambiguous, errors.Ambiguous, True),
    (503, "unavailable", errors.Ambiguous, errors.Ambiguous, True),
    (504, "timeout", errors.Ambiguous, errors.Ambiguous, True),
    (200, "", errors.Ambiguous, errors.Ambiguous, True),
    (302, "", errors.Ambiguous, errors.Ambiguous, True),
    (401, "", errors.Unauthorized, errors.Unauthorized, False),
    (403, "", errors.CloudProblem, errors.CloudProblem, False),
    (404, "", errors.CloudProblem, errors.CloudProblem, False),
]


@pytest.mark.parametrize(("status", "code", "create", "change", "repeated"), TABLE)
def test_what_a_code_means(
    status: int,
    code: str,
    create: type[CloudProblem],
    change: type[CloudProblem],
    repeated: bool,
) -> None:
    """Exactly that class, with the code for who decides on it."""
    failure = Failure(Where.ANSWERED, code, status, "words")
    read = errors.CloudUnreachable if change is errors.Ambiguous else change
    for safety, expected in ((CREATE, create), (REPEATABLE, change), (READ, read)):
        error = to_error(failure, "the thing", safety)
        assert type(error) is expected
        assert error.facts["api_code"] == code
        assert "the thing" in str(error)
        assert (again_s(failure, safety, 0) is not None) == (repeated and safety is not CREATE)


@pytest.mark.parametrize(
    ("where", "create", "change"),
    [
        (Where.UNSENT, errors.CloudUnreachable, errors.CloudUnreachable),
        (Where.LOST, errors.Ambiguous, errors.Ambiguous),
    ],
)
def test_what_no_answer_means(
    where: Where, create: type[CloudProblem], change: type[CloudProblem]
) -> None:
    """Refused at the door is nothing done; lost on the way may be."""
    failure = Failure(where, text="Connection refused")
    assert type(to_error(failure, "x", CREATE)) is create
    assert type(to_error(failure, "x", REPEATABLE)) is change
    assert type(to_error(failure, "x", READ)) is errors.CloudUnreachable
    assert again_s(failure, CREATE, 0) is None
    assert again_s(failure, REPEATABLE, 0) is not None
    assert again_s(failure, REPEATABLE, 9) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("location",), errors.NoCapacity),
        (("server_type", "name"), errors.NoCapacity),
        (("name",), errors.CloudProblem),
        ((), errors.CloudProblem),
    ],
)
def test_a_type_that_a_location_does_not_have(
    fields: tuple[str, ...], expected: type[CloudProblem]
) -> None:
    """422 `invalid_input`, told apart by the field it complains about (testflows #96)."""
    failure = Failure(Where.ANSWERED, "invalid_input", 422, fields=fields)
    assert type(to_error(failure, "x", CREATE)) is expected


def test_details_for_people() -> None:
    """The limit, a token that only reads, and what support asks for."""
    quota = Failure(
        Where.ANSWERED,
        "resource_limit_exceeded",
        403,
        "t",
        limits=("server_limit",),
        correlation="c",
    )
    error = to_error(quota, "server x", CREATE)
    assert str(error).endswith("limit server_limit; correlation id c")
    assert error.facts["limits"] == ("server_limit",)
    readonly = to_error(Failure(Where.ANSWERED, "token_readonly", 401, "t"), "x", CREATE)
    assert "may only read" in str(readonly)


def test_how_often() -> None:
    """Their trouble four times, a lock as long as the deadline allows, another user less."""
    trouble = Failure(Where.ANSWERED, "unavailable", 503)
    assert [again_s(trouble, READ, n) for n in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    locked = Failure(Where.ANSWERED, "locked", 423)
    assert again_s(locked, REPEATABLE, 100) == 5.0
    in_use = Failure(Where.ANSWERED, "resource_in_use", 422)
    assert again_s(in_use, REPEATABLE, 100) is None


def test_looking_at_actions() -> None:
    """Quickly at first."""
    assert [poll_s(t) for t in (0, 4.9, 5, 59, 60, 3600)] == [0.5, 0.5, 2.0, 2.0, 5.0, 5.0]


def test_pace_by_the_headers() -> None:
    """One request comes back each second; reads leave the last hundredth to deletes."""
    pace = Pace()
    assert pace.wait_s(READ, 0.0) == 0.0
    pace.heard(3600, 40, 100.0)
    assert pace.wait_s(READ, 100.0) == 0.0
    pace.heard(3600, 30, 100.0)
    assert pace.wait_s(READ, 100.0) == 7.0
    assert pace.wait_s(READ, 107.0) == 0.0
    assert pace.wait_s(REPEATABLE, 100.0) == 0.0
    pace.heard(3600, 0, 100.0)
    assert pace.wait_s(CREATE, 100.0) == 1.0
    pace.heard(36, 0, 100.0)  # a project with a small limit
    assert pace.wait_s(READ, 100.0) == 100.0
