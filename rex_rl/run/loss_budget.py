"""How often the learner may die before the run gives up."""

from rex_rl.errors import LearnerLostError, RunError


class LossBudget:
    """Counts losses of the learner in a row: the first one after a new checkpoint starts the count again.

    >>> budget = LossBudget(2)
    >>> for step in (3, 5, 5):
    ...     budget.count(LearnerLostError("a rank died"), step=step)
    >>> budget.num_in_row
    2
    """

    def __init__(self, max_in_row: int) -> None:
        self._max_in_row = max_in_row
        self._step = -1
        self.num_in_row = 0

    def count(self, lost: LearnerLostError, *, step: int) -> None:
        """Count one more loss; `step` is the newest checkpoint's.

        Raises:
            RunError: too many losses since that checkpoint was written.
        """
        self.num_in_row = self.num_in_row + 1 if step == self._step else 1
        self._step = step
        if self.num_in_row > self._max_in_row:
            raise RunError(f"{lost}; the {self.num_in_row}th time without a new checkpoint between them") from lost
