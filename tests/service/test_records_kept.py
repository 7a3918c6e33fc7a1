"""What the case book says is kept: the files of each series and nothing else, on both kinds of database."""

from __future__ import annotations

from service.records import Book, State
from tests.service.casebook import START, instance, queue, receive, run


def test_series_are_given_newest_first_with_the_same_file_every_time(book: Book) -> None:
    first = receive(book, series="1.1", study="1.9")
    second = receive(book, series="1.2", study="1.9", received_at=START.replace(year=2027))
    receive(book, series="1.3", study="1.8")
    assert [row.series_uid for row in book.kept_series()] == ["1.2", *sorted(("1.1", "1.3"), key=lambda uid: case_of(book, uid))]
    found = book.kept_series(["1.9"])
    assert [(row.case_id, row.path, row.state) for row in found] == [
        (second, "instances/1.2/1.dcm", State.RECEIVING),
        (first, "instances/1.1/1.dcm", State.RECEIVING),
    ]
    assert book.kept_series([]) == book.kept_series(["1.7"]) == []


def case_of(book: Book, series_uid: str) -> str:
    return book.find_cases(series_uid=series_uid).items[0].id


def test_instances_come_by_their_numbers_in_whatever_order_they_came(book: Book) -> None:
    numbers = (2, 10, 1)
    book.note_instances([instance(number, header={"instance_number": number}) for number in numbers])
    case_id = case_of(book, "1.2.3")
    assert [row.sop_instance_uid for row in book.kept_instances(case_id)] == ["1.2.3.1", "1.2.3.2", "1.2.3.10"]
    assert [row.size for row in book.kept_instances(case_id, ["1.2.3.10", "1.2.3.77"])] == [110]
    assert book.count_kept([case_id, "unknown"]) == {case_id: 3, "unknown": 0}


def test_an_instance_number_no_integer_holds_comes_last(book: Book) -> None:
    book.note_instances([instance(number, header={"instance_number": given}) for number, given in ((1, 202611281151), (2, 7))])
    assert [row.sop_instance_uid for row in book.kept_instances(case_of(book, "1.2.3"))] == ["1.2.3.2", "1.2.3.1"]


def test_what_is_set_aside_or_discarded_is_not_there(book: Book) -> None:
    kept = receive(book, 2)
    book.note_instances([instance(1, digest="f" * 64)])
    book.note_instances([instance(1, series="1.2.4", path="", size=0)])
    assert [row.case_id for row in book.kept_series()] == [kept]
    assert [row.path for row in book.kept_instances(kept)] == ["instances/1.2.3/1.dcm", "instances/1.2.3/2.dcm"]
    assert book.count_kept([kept, case_of(book, "1.2.4")]) == {kept: 2, case_of(book, "1.2.4"): 0}


def test_the_studies_of_instances_that_came_in_or_went_out(book: Book) -> None:
    receive(book, series="1.1", study="1.9")
    run(book, queue(book, series="1.2", study="1.8"))
    receive(book, series="1.3", study="1.7")
    assert book.studies_with(["1.1.2"]) == ["1.9"]
    assert sorted(book.studies_with(["1.1.2", "1.2.1", "1.1.1"])) == ["1.8", "1.9"]
    assert book.studies_with(["2.25.1"]) == ["1.8"], "the result of its first revision"
    assert book.studies_with(["1.4"]) == []
