"""Every error of the project, as one tree.

```
RexError
├── UserError            the user can mend it: one line, exit status 2
│   ├── ConfigError      a key, a value or a combination of them
│   ├── DataError        a record file, a record or an image
│   ├── ModelError       a model folder
│   └── PlacementError   the cluster cannot place what was asked for
├── RunError             the run cannot go on: exit status 1
│   ├── RolloutError     a group could not be generated
│   ├── AbortedError     a group was given up on purpose, to be asked for anew
│   ├── LearnerLostError a rank of the learner died
│   │   └── BrokenWeightsError  its weights are not numbers
│   ├── SyncError        weights did not reach a rollout worker, or arrived altered
│   ├── StalenessError   an answer is older than `max_staleness` allows
│   ├── NonFiniteError   loss, gradient norm or reward is not a number
│   └── CheckpointError  a checkpoint is incomplete, altered, or could not be written
└── Stopped              no error: the run was asked to end, exit status 143
```

All are picklable (one string argument), because they cross Ray's process borders.
"""


class RexError(Exception):
    """Root of the tree; catch this to catch what the project raises on purpose."""

    exit_status = 1


class UserError(RexError):
    """A mistake the user can mend; the message names value, limit and file in one line."""

    exit_status = 2


class ConfigError(UserError):
    """An unknown key, a value out of bounds, or two values that do not go together."""


class DataError(UserError):
    """A record file, a record or an image that cannot be used."""


class ModelError(UserError):
    """A model folder that is not one, or lacks the coordinate tokens."""


class PlacementError(UserError):
    """More actors were asked for than the cluster can place."""


class RunError(RexError):
    """The run cannot go on."""


class RolloutError(RunError):
    """A group of answers could not be generated."""


class AbortedError(RunError):
    """A group was given up on purpose: its prompt is asked anew."""


class LearnerLostError(RunError):
    """A rank of the learner died; its stage goes on from the last checkpoint."""


class BrokenWeightsError(LearnerLostError):
    """Its weights are not numbers: nothing can be learned from them, and no step skipped would mend them."""


class SyncError(RunError):
    """Weights did not reach a rollout worker, or arrived altered."""


class StalenessError(RunError):
    """An answer was written by weights older than `max_staleness` allows."""


class NonFiniteError(RunError):
    """Loss, gradient norm or reward is not a number; raised before the weights change."""


class CheckpointError(RunError):
    """A checkpoint is incomplete, altered, or could not be written."""


class Stopped(RexError):
    """The run was asked to end, and did; no RunError, so that nothing that mends runs takes it for a fault."""

    exit_status = 143  # what a shell gives for a process that SIGTERM ended
