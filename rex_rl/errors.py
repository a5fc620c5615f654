"""Every error of the project, as one tree.

```
RexError
├── UserError            the user can fix it: one line, exit status 2
│   ├── ConfigError      a key, a value or a combination of them
│   ├── DataError        a record file, a record or an image
│   ├── ModelError       a model folder
│   └── PlacementError   the cluster cannot place what was asked for
├── RunError             the run cannot go on: exit status 1
│   ├── RolloutError     a group could not be generated
│   ├── AbortedError     a group was aborted on purpose, to be asked for again
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
    """A mistake the user can fix; the message names value, limit and file in one line."""

    exit_status = 2


class ConfigError(UserError):
    """An unknown key, a value out of bounds, or two values that contradict each other."""


class DataError(UserError):
    """A record file, a record or an image that cannot be used."""


class ModelError(UserError):
    """A folder that holds no model, or a model without coordinate tokens."""


class PlacementError(UserError):
    """More actors were asked for than the cluster can place."""


class RunError(RexError):
    """The run cannot go on."""


class RolloutError(RunError):
    """A group of answers could not be generated."""


class AbortedError(RunError):
    """A group was aborted on purpose: its prompt is asked again."""


class LearnerLostError(RunError):
    """A rank of the learner died; its stage goes on from the last checkpoint."""


class BrokenWeightsError(LearnerLostError):
    """Its weights are not numbers: nothing can be learned from them, and skipping a step would not repair them."""


class SyncError(RunError):
    """Weights did not reach a rollout worker, or arrived altered."""


class StalenessError(RunError):
    """An answer was written by weights older than `max_staleness` allows."""


class NonFiniteError(RunError):
    """Loss, gradient norm or reward is not a number; raised before the weights change."""


class CheckpointError(RunError):
    """A checkpoint is incomplete, altered, or could not be written."""


class Stopped(RexError):
    """The run was asked to end, and did; not a RunError, so that code that recovers from faults lets it pass."""

    exit_status = 143  # as a shell reports a process that SIGTERM ended
