"""Ends answers that repeat themselves, each alone: the other answers of their request go on."""

from queue import SimpleQueue
from typing import Any

from rex_rl.language.repeats import RepeatWatch
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.types import Sampling


class LoopWatch:
    """Looks at the answers it was asked to watch, between two steps of a vLLM engine in this process.

    vLLM turns a request with n answers into n children, which share its prompt and image, are named `i_request` and are
    drawn with seed + i (0.32, `ParentRequest`). Their tokens are read where the engine collects them. So it need not
    return partial outputs, and an answer ends at the same token whatever else is being written.
    """

    def __init__(self, engine: Any, vocabulary: Vocabulary) -> None:
        self._engine, self._vocabulary = engine, vocabulary
        self._watches: dict[str, RepeatWatch] = {}

    def add(self, request_id: str, sampling: Sampling) -> None:
        """Watch a request's answers where its sampling says so; `request_id` as `add_request` returned it."""
        if not sampling.max_repeats:
            return
        several = sampling.num_answers > 1
        for i in range(sampling.num_answers):
            answer_id = f"{i}_{request_id}" if several else request_id
            self._watches[answer_id] = RepeatWatch(self._vocabulary, limit=sampling.max_repeats)

    def end_loops(self) -> list[Any]:
        """Abort the answers that loop; returns the outputs of requests that this completes, as the engine's step does.

        What an answer wrote until then is kept: tokens, log-probabilities, weight versions.
        """
        states = self._engine.output_processor.request_states
        self._watches = {name: watch for name, watch in self._watches.items() if name in states}
        looping = [
            name for name, watch in self._watches.items() if watch.is_looping(states[name].detokenizer.output_token_ids)
        ]
        return [output for name in looping for output in self._abort(name, states[name])]

    def _abort(self, answer_id: str, state: Any) -> list[Any]:
        """Outputs of an aborted answer; vLLM puts them into the request's queue, which only its async engine has."""
        state.queue = outputs = SimpleQueue[Any]()
        self._engine.abort_request([answer_id], internal=True)
        if outputs.empty():
            return []  # other answers of the request are still being written
        if state.parent_req is not None:
            self._engine.abort_request([state.parent_req.request_id], internal=True)  # else vLLM keeps it for ever
        return [outputs.get()]
