from bula.prompts import Encoded
from bula.scoring import batches_by_length


def test_batches_contain_similar_lengths_and_every_example_once() -> None:
    lengths = [3, 10, 4, 9, 30]
    encoded = [Encoded(prompt=[1] * (length - 1), completion=[2]) for length in lengths]
    # 2 x 10 tokens fit into 20 padded tokens and 3 x 10 do not; 30 exceeds the limit by itself.
    assert batches_by_length(encoded, 20) == [[4], [1, 3], [2, 0]]
