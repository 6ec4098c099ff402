"""Keep the wordings of one question in one split.

A chatbot's intent is a list of questions with one answer. If a hash of each question chose its
split, a validation set would ask for answers that train contains.
"""

import numpy

from bula.params import Preprocess
from stages.preprocess.minhash import MIX_FACTORS, NGRAM_SHIFT, Flags, Hashes, Indices, Splits
from stages.preprocess.splits import split_numbers

# Stock answers can join thousands of questions. A larger group would upset the splits' shares.
MAX_JOINED = 1000


def join_wordings(
    split: Splits, fixed: Flags, group: Hashes, answer: Hashes, params: Preprocess
) -> Splits:
    """Return the split of each row, one split for all wordings of an answer.

    `group` is the hash of the question's group, and `split` an index of SPLITS. Fixed rows stay in
    their split. The smallest answer hash of the joined rows chooses their split, so another wording
    of a known answer moves no other row, whatever the order of the files.
    """
    pairs = _linked_pairs(group[~fixed], answer[~fixed], params.near_duplicates.max_paraphrases)
    if not len(pairs):
        return split
    answers, answer_index = numpy.unique(pairs[:, 0], return_inverse=True)
    groups, group_index = numpy.unique(pairs[:, 1], return_inverse=True)
    answer_label, group_label = _components(answer_index, group_index)
    leader = numpy.full(len(answers), numpy.iinfo(numpy.uint64).max, numpy.uint64)
    numpy.minimum.at(leader, answer_label, answers)
    chosen = split_numbers(_spread(leader), params)
    is_small = numpy.bincount(group_label) <= MAX_JOINED
    place = numpy.minimum(numpy.searchsorted(groups, group), len(groups) - 1)
    label = group_label[place]
    moves = ~fixed & (groups[place] == group) & is_small[label]
    return numpy.where(moves, chosen[label], split).astype(split.dtype)


def _linked_pairs(group: Hashes, answer: Hashes, most: int) -> Hashes:
    """Return the distinct (answer, group) pairs of answers with 2 to `most` groups."""
    _, index, rows = numpy.unique(answer, return_inverse=True, return_counts=True)
    repeated = rows[index] > 1
    columns = numpy.stack([answer[repeated], group[repeated]], axis=1)
    pairs = numpy.unique(columns, axis=0)
    _, index, wordings = numpy.unique(pairs[:, 0], return_inverse=True, return_counts=True)
    is_linked = (wordings > 1) & (wordings <= most)
    linked: Hashes = pairs[is_linked[index]]
    return linked


def _components(answers: Indices, groups: Indices) -> tuple[Indices, Indices]:
    """Return the component of each answer and of each group.

    The arguments contain the indices of each pair, which joins an answer and a group.
    """
    # Imported here, because `--help` must not wait for it.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    answer_count = int(answers.max()) + 1
    size = answer_count + int(groups.max()) + 1
    ones = numpy.ones(len(answers), numpy.int8)
    graph = coo_matrix((ones, (answers, answer_count + groups)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    return label[:answer_count], label[answer_count:]


def _spread(hashes: Hashes) -> Hashes:
    """Return new hashes, because the smallest of several hashes is not uniform."""
    value = hashes * MIX_FACTORS[0]
    value ^= value >> NGRAM_SHIFT
    return value * MIX_FACTORS[1]
