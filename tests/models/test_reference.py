"""The reference networks are the same everywhere, and leave the global generators alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from models import characters, sentiment, text_generator, words
from models.data import heldout
from models.lstm import reference


def test_the_reference_has_the_same_weights_everywhere() -> None:
    weights = reference().state_dict()["lstm.weight_ih_l0"][0].numpy()
    expected = [-0.0024, 0.1696, -0.2603, -0.2327, -0.1218]
    np.testing.assert_allclose(weights, expected, atol=5e-5)


@pytest.mark.parametrize("make", [reference, text_generator.trained, sentiment.trained])
def test_making_a_network_draws_nothing_from_the_global_generator(make: object) -> None:
    assert callable(make)
    before = torch.get_rng_state()
    module = make()
    module.example_inputs(2, 3)
    if make is not reference:  # its example is random; only the network itself is promised
        assert torch.equal(torch.get_rng_state(), before)


def test_the_reference_is_a_plain_lstm() -> None:
    module = reference(input_size=3, hidden_size=4, num_layers=2, bidirectional=True)
    assert isinstance(module.lstm, nn.LSTM)
    y, hn, cn = module(*module.example_inputs(5, 6))
    assert (y.shape, hn.shape, cn.shape) == ((5, 6, 8), (4, 5, 4), (4, 5, 4))


def test_the_weights_are_small_and_safe() -> None:
    for module in (text_generator, sentiment):
        assert module.WEIGHTS.stat().st_size <= 2_000_000
        with safe_open(module.WEIGHTS, framework="numpy") as file:
            assert len(list(file.keys())) >= 5


def test_the_held_out_accuracy_is_what_the_readme_says() -> None:
    network = sentiment.trained()
    right = 0
    with torch.no_grad():
        for label, sentence in heldout():
            tokens = torch.from_numpy(words.encode(sentence))[None]
            logits, *_ = network(tokens, *network.initial_state(1))
            right += sentiment.LABELS[int(logits.argmax())] == label
    assert f"{right / len(heldout()):.1%}" == "94.9%"


def test_no_held_out_sentence_was_trained_on() -> None:
    train = (sentiment.WEIGHTS.parent / "data" / "sentiment-train.tsv").read_text(encoding="utf-8")
    known = {line.split("\t", 1)[1].casefold() for line in train.splitlines()}
    assert not known & {sentence.casefold() for _, sentence in heldout()}


def test_the_alphabet_goes_there_and_back() -> None:
    assert characters.decode(characters.encode(characters.PROMPT)) == characters.PROMPT
    with pytest.raises(ValueError, match="'7' at position 1"):
        characters.encode("a7")


def test_an_empty_sentence_is_still_a_step() -> None:
    assert words.encode("").shape == (1,)
    assert words.encode("What a lovely day!").dtype == np.int64
