"""Whatever is sent, the endpoint answers with what was wrong: here a few hundred bodies, as a command 10,000."""

from tests.benchmarks.hostile import answers


def test_no_hostile_body_gives_an_error_of_ours():
    found = answers(250, seed=3)
    assert found.total() == 250
    assert not [status for status in found if status >= 500]
    assert {200, 415, 422} <= found.keys()
