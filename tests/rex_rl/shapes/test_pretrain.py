"""The small base can be made again: every phase trains its part, and words are predicted by their letters."""

import numpy as np
import pytest
import torch

from rex_rl.language.vocabulary import NUM_BINS, load_vocabulary
from rex_rl.policy.model import load_policy
from rex_rl.policy.model_folder import SHIPPED_BASE
from rex_rl.shapes.dense_head import CELLS, DenseHead
from rex_rl.shapes.pretrain import Trainer
from rex_rl.shapes.questions import ask_words
from rex_rl.shapes.world import LETTERS, Scene

WORDS = Scene(labels=("AC", "Z"), boxes_N4=np.array([[0.0, 0.0, 28.0, 24.0], [150.0, 150.0, 168.0, 180.0]]))


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(load_policy(SHIPPED_BASE), load_vocabulary(SHIPPED_BASE), seed=0)


@pytest.mark.parametrize("phase", ["dense", "names", "language", "joint"])
def test_every_phase_gives_a_loss_that_trains_its_part(trainer: Trainer, phase: str) -> None:
    trainer.forget()
    trainer.model.zero_grad(set_to_none=True)
    loss = getattr(trainer, phase)()
    loss.backward()
    assert torch.isfinite(loss)
    moved = {name.split(".")[1] for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    assert moved == {"dense": {"visual"}, "joint": {"visual", "language_model"}}.get(phase, {"language_model"})


def test_a_letter_is_predicted_by_the_quarter_of_a_cell_that_holds_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that name the right letters, and none elsewhere, cost nothing; one wrong letter does."""
    logits_K4C = torch.eye(1 + len(LETTERS))[0].repeat(CELLS * CELLS, 4, 1) * 50
    for cell, quarter, letter in ((0, 0, "A"), (0, 1, "C"), (5 * CELLS + 5, 3, "Z")):  # Z's middle is at (159, 165) px
        logits_K4C[cell, quarter] = torch.eye(1 + len(LETTERS))[1 + LETTERS.index(letter)] * 50
    head = DenseHead(torch.randn(NUM_BINS, 8))
    monkeypatch.setattr(head, "letters", torch.nn.Identity())
    right_KC = logits_K4C.flatten(1)
    assert head._letter_loss(right_KC, [WORDS]) < 1e-6
    assert head._letter_loss(right_KC.roll(1, dims=0), [WORDS]) > 0.1


def test_questions_hold_the_truth_on_the_grid() -> None:
    turn, asked = ask_words(np.random.default_rng(0), WORDS)
    assert turn == "Read the words."
    assert asked[-1] == ("", "AC<0><0><143><122>, Z<765><765><856><917>")
    assert ("the word Z", "<765><765><856><917>") in asked
