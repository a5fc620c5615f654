"""The throw-away head that teaches the small base's vision tower: every image token predicts what is in its cell."""

import numpy as np
import torch

from rex_rl.shapes.questions import grid_boxes, is_written
from rex_rl.shapes.world import IMAGE_SIDE_PX, LABELS, LETTERS, Scene

CELLS = IMAGE_SIDE_PX // 28
BELL_BINS, LOGIT_SCALE = 4.0, 8.0


class DenseHead(torch.nn.Module):
    """Predicts for every image token: is a centre in its cell, of which label, and where are the box's four sides.

    Sides are predicted in the language model's own coordinate embeddings, so that image tokens already hold what the
    model later has to write, one linear map away; targets are bells of a few bins, so that near is better than far.
    """

    bins_V: torch.Tensor
    table_VH: torch.Tensor

    def __init__(self, table_VH: torch.Tensor) -> None:
        super().__init__()
        width = table_VH.shape[1]
        self.what = torch.nn.Linear(width, 1 + len(LABELS) + 1)
        self.letters = torch.nn.Linear(width, 4 * (1 + len(LETTERS)))
        self.sides = torch.nn.Linear(width, 4 * width)
        self.register_buffer("table_VH", table_VH.detach() / table_VH.detach().std())
        self.register_buffer("bins_V", torch.arange(float(table_VH.shape[0])))

    def loss(self, features_KH: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        """Weighted sum of four cross-entropies, each a mean over the tokens it concerns."""
        present_K = torch.zeros(features_KH.shape[0])
        label_K = torch.zeros(features_KH.shape[0], dtype=torch.long)
        sides_K4 = torch.zeros(features_KH.shape[0], 4)
        for row, scene in enumerate(scenes):
            for label, box_4, bins_4 in zip(scene.labels, scene.boxes_N4, grid_boxes(scene), strict=True):
                column, line = (int((box_4[i] + box_4[i + 2]) / 2 // 28) for i in (0, 1))
                cell = (row * CELLS + line) * CELLS + column
                present_K[cell], label_K[cell] = 1.0, (*LABELS, label).index(label)  # all words are the last label
                sides_K4[cell] = torch.from_numpy(bins_4)
        there_K = present_K > 0
        what = self.what(features_KH)
        sides_MH = self.sides(features_KH[there_K]).unflatten(-1, (4, -1)).flatten(0, 1)
        logits_MV = sides_MH @ self.table_VH.T / LOGIT_SCALE
        bells_MV = (-0.5 * ((self.bins_V - sides_K4[there_K].flatten()[:, None]) / BELL_BINS) ** 2).softmax(dim=-1)
        return (
            torch.nn.functional.binary_cross_entropy_with_logits(what[:, 0], present_K)
            + 0.3 * torch.nn.functional.cross_entropy(what[there_K, 1:], label_K[there_K])
            + 0.5 * torch.nn.functional.cross_entropy(logits_MV, bells_MV)
            + self._letter_loss(features_KH, scenes)
        )

    def _letter_loss(self, features_KH: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        """Loss on the letter whose middle is in each quarter of a cell (0 is none); for scenes of words only."""
        written_B = [is_written(scene) for scene in scenes]
        if not any(written_B):
            return features_KH.new_zeros(())
        quarters_K4 = torch.zeros(features_KH.shape[0], 4, dtype=torch.long)
        asked_K = torch.tensor(written_B).repeat_interleave(CELLS * CELLS)
        for row in np.flatnonzero(written_B).tolist():
            for word, (x0, y0, x1, y1) in zip(scenes[row].labels, scenes[row].boxes_N4, strict=True):
                for i, letter in enumerate(word):
                    column, line = int((x0 + (i + 0.5) / len(word) * (x1 - x0)) // 14), int((y0 + y1) / 2 // 14)
                    cell = (row * CELLS + line // 2) * CELLS + column // 2
                    quarters_K4[cell, 2 * (line % 2) + column % 2] = 1 + LETTERS.index(letter)
        logits_M4C = self.letters(features_KH[asked_K]).unflatten(-1, (4, -1))
        return torch.nn.functional.cross_entropy(logits_M4C.flatten(0, 1), quarters_K4[asked_K].flatten())
