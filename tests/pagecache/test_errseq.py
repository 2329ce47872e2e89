"""lib/errseq.c: an error is told once to everybody who looks."""
from glasskernel.lib.errseq import errseq_check, errseq_mark_seen, errseq_sample, errseq_set


def test_an_error_that_nobody_saw_is_new_even_for_who_opens_later():
    eseq = errseq_set(0, 5)
    assert errseq_check(eseq, errseq_sample(eseq)) == 5


def test_an_error_that_was_seen_is_not_told_to_who_opens_later():
    eseq = errseq_mark_seen(errseq_set(0, 5))
    assert errseq_check(eseq, errseq_sample(eseq)) == 0


def test_the_same_error_again_is_a_new_one_once_it_was_seen():
    first = errseq_mark_seen(errseq_set(0, 5))
    again = errseq_set(first, 5)
    assert again != first and errseq_check(again, first) == 5
