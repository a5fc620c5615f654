"""The SFT loop with fakes: which records it sees, when it publishes, saves and is evaluated, and how it resumes."""

from rex_rl import sft
from rex_rl.config.schema import SftConfig
from rex_rl.data.stream import PromptStream
from rex_rl.language.codec import Codec
from tests.support import fakes

BATCH = 3
STREAM = PromptStream(records=[fakes.record(f"r{i}") for i in range(5)], seed=0, paraphrase=True)


class Run:
    """One process of an SFT run."""

    def __init__(self, codec: Codec, *, start: int = 0, **settings: object) -> None:
        self.events: list[fakes.Event] = []
        pool = fakes.FakePool(self.events)
        self.learner = fakes.FakeLearner(self.events)
        self.log = fakes.FakeLog()
        sft.train(
            SftConfig(batch_size=BATCH, **settings),
            stream=STREAM,
            codec=codec,
            learner=self.learner,
            sync=fakes.FakeSync(self.events, pool),
            progress=fakes.FakeProgress(self.events, start=start),
            heldout=fakes.FakeHeldOut(self.events, pool),
            log=self.log,
        )

    @property
    def seen(self) -> list[str]:
        return [group.prompt.uid for batch in self.learner.batches for group in batch]


def test_weights_are_published_only_to_be_evaluated(codec: Codec) -> None:
    run = Run(codec, num_steps=4, eval_every=2)
    assert run.events == [
        ("step", 1),
        ("after_step", 1),
        ("step", 2),
        ("after_step", 2),
        ("publish", 2),
        ("evaluate", 2),
        ("step", 3),
        ("after_step", 3),
        ("step", 4),
        ("after_step", 4),
        ("publish", 4),
        ("evaluate", 4),
    ]


def test_records_come_in_the_streams_order(codec: Codec) -> None:
    run = Run(codec, num_steps=4)
    assert run.seen == [prompt.uid for prompt in STREAM.prompts(0, 4 * BATCH)]
    assert [(stage, step) for stage, step, _ in run.log.steps] == [("sft", step) for step in range(1, 5)]
    assert run.log.steps[0][2] == {"loss": 0.5}
    assert list(run.log.seconds[0]) == ["data", "learn"]


def test_a_resumed_run_goes_on_with_batch_and_learning_rate(codec: Codec) -> None:
    whole, rest = Run(codec, num_steps=5), Run(codec, num_steps=5, start=2)
    assert rest.seen == whole.seen[2 * BATCH :]
    assert rest.learner.factors == whole.learner.factors[2:]


def test_a_run_killed_before_its_last_evaluation_still_has_figures(codec: Codec) -> None:
    """The workers hold no weights of this run yet, so the weights are published first."""
    run = Run(codec, num_steps=4, start=4)
    assert run.events == [("publish", 4), ("evaluate", 4)]
    assert run.log.evaluations == [("sft", 4, {"f1_50": 4.0})]
