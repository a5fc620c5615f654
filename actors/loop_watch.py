"""Ends the answers that repeat themselves, one by one; the others of their request go on."""

from queue import SimpleQueue
from typing import Any

from rex_rl.repeats import RepeatWatch
from rex_rl.types import Sampling
from rex_rl.vocabulary import Vocabulary


class LoopWatch:
    """Looks, between two steps of a vLLM engine in this process, at the answers it is asked to look at.

    vLLM makes of one request with n answers n children, which share its prompt and image, named `i_request` and drawn
    with seed + i (0.32, `ParentRequest`). Their tokens are read where the engine collects them, so it need not hand out
    partial outputs, and an answer is ended at the same token whatever else is being written.
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
        """Abort the answers that loop; gives the outputs of requests which that completed, as the engine's step does.

        What was written until then is kept whole: tokens, log-probabilities, weight versions.
        """
        states = self._engine.output_processor.request_states
        self._watches = {name: watch for name, watch in self._watches.items() if name in states}
        looping = [
            name for name, watch in self._watches.items() if watch.is_looping(states[name].detokenizer.output_token_ids)
        ]
        return [output for name in looping for output in self._abort(name, states[name])]

    def _abort(self, answer_id: str, state: Any) -> list[Any]:
        """vLLM gives an aborted request's output to its queue, which only its asynchronous engine has."""
        state.queue = outputs = SimpleQueue[Any]()
        self._engine.abort_request([answer_id], internal=True)
        if outputs.empty():
            return []  # other answers of the request are still being written
        if state.parent_req is not None:
            self._engine.abort_request([state.parent_req.request_id], internal=True)  # else vLLM keeps it for ever
        return [outputs.get()]
