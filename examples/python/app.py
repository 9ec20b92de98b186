"""A Kafka function in Python: exchanges whose volume is above a limit go to another topic.

It answers `applied` only when every one of them is acknowledged: delivery is at least once.
"""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import producer, types, variables


def values(batch: types.Batch):
    """The records of a batch: offset and value, None where it is a tombstone."""
    at = 0
    for offset, length in zip(batch.offsets, batch.value_lengths):
        if length < 0:
            yield offset, None
        else:
            yield offset, batch.values[at : at + length]
            at += length


def is_large(value: bytes | None, limit: float) -> bool:
    """Whether it is an exchange above the limit; what cannot be read is not."""
    try:
        return float(json.loads(value)["volume"]) > limit
    except (TypeError, ValueError, KeyError):
        return False


class WitWorld(wit_world.WitWorld):
    async def handle_batch(self, batch: types.Batch) -> types.Outcome:
        limit = float(await variables.get("limit"))
        topic = await variables.get("topic")
        messages = [
            producer.Message(topic, None, value, [("source-offset", str(offset).encode())])
            for offset, value in values(batch)
            if is_large(value, limit)
        ]
        if messages:
            try:
                await producer.send(await variables.get("brokers"), messages)
            except Err as error:
                return types.Outcome_RetryLater(str(error.value))
        return types.Outcome_Applied()
