"""What is exported of a transformers model: its forward call as a program with plain tensor inputs.

A decoder gets a static key-value cache: buffers ``key_cache_<layer>`` and ``value_cache_<layer>`` of shape
(batch, key-value heads, cache length + 1, head size). Its inputs are those that transformers' own decoders take: the
new tokens, and a mask over all tokens so far. The sizes of these two say where the new ones are written and how much of
the cache is read, so that the two cannot contradict each other, and attention costs what is written, not what could be.
Layers that look back only so far (sliding windows, chunks) read as much: the window of the first new token to the last.
One program with any number of tokens from one to the cache's length serves prefill and decode. The model's own class is
extended rather than wrapped, so parameters keep the names that the checkpoint, its plan and its users know.

A cache of several texts serves from one to that many, in its first rows. Their tokens end in the same column, the mask
leaves out what lies before a shorter text, and a token's position is how many the mask shows before it. The cache of
one text has a program of its own, in which all that follows from the sizes.
"""

from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from transformers.cache_utils import StaticCache, StaticLayer

from shardwright.errors import CheckpointError, InputError
from shardwright.package.manifest import DecoderEntry
from shardwright.program.inputs import bind_expected, expected_inputs
from shardwright.program.read import read
from shardwright.program.torch_private import as_exported
from shardwright.sources.export_example import export_model


class _BufferLayer(StaticLayer):
    """A cache layer over two buffers of the model: written at ``places``, read up to ``num_seen`` tokens.

    ``window``: how many tokens any token looks back on, itself among them; None: on all. What is further back than the
    first of the new tokens looks is not read.
    """

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor, num_seen: int, window: int | None
    ) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values = keys, values
        self.held, self.places, self.num_seen = (keys, values), places, num_seen
        self.dtype, self.device = keys.dtype, keys.device
        # Transformers reads here how many tokens came before these.
        self.cumulative_length: Any = num_seen - places.shape[0]
        # As a minimum it is known to be no less than that of its parts, which torch asks while it exports.
        self.num_read: Any = num_seen if window is None else torch.sym_min(num_seen, places.shape[0] + window - 1)
        # Transformers makes one mask for all layers that look back only so far, with the sizes of the first of them.
        self.is_sliding = window is not None
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._hold(self.held[0], key_states), self._hold(self.held[1], value_states)

    def _hold(self, buffer: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        if buffer.shape[0] == 1:
            buffer.index_copy_(2, self.places, new)
            return buffer[:, :, self.num_seen - self.num_read : self.num_seen]
        num_rows = new.shape[0]
        rows = torch.arange(num_rows, device=new.device)
        buffer[rows[:, None], :, self.places] = new.transpose(1, 2)
        return buffer[:num_rows, :, self.num_seen - self.num_read : self.num_seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_read, self.num_seen - self.num_read


class _Decoding:
    """Token ids (1, tokens) and the mask of all tokens so far, these among them (1, seen) → logits (1, 1, vocabulary)
    of what follows the last.
    """

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        model: Any = self
        num_seen = attention_mask.shape[1]
        torch._check(
            num_seen >= input_ids.shape[1], lambda: "the mask is of all tokens so far, the new ones among them"
        )
        places = torch.arange(num_seen - input_ids.shape[1], num_seen, device=input_ids.device)
        num_places = model.key_cache_0.shape[2]
        cache = StaticCache(model.config, max_cache_len=num_places)
        windows, shown = _windows(cache, num_places - 1), attention_mask
        if any(windows):
            # Transformers asks whether a mask is longer than what a layer reads; it is now, in every call.
            shown = torch.nn.functional.pad(shown, (0, num_places))
        cache.layers = [
            _BufferLayer(getattr(self, f"key_cache_{i}"), getattr(self, f"value_cache_{i}"), places, num_seen, window)
            for i, window in enumerate(windows)
        ]
        found = super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=shown,
            position_ids=places[None] if model.key_cache_0.shape[0] == 1 else _positions(attention_mask, places),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=input_ids.new_full((1,), -1),
        )
        return found.logits


def _windows(cache: StaticCache, most_seen: int) -> list[int | None]:
    """How far the tokens of each layer look back; None where that is on all that may be seen."""
    layers: list[Any] = cache.layers
    return [layer.max_cache_len if layer.max_cache_len < most_seen else None for layer in layers]


def _counts_by_mask(exported: ExportedProgram) -> bool:
    """Whether results rest on how many tokens the mask shows, as `_positions` or the model itself counts them."""
    waiting, seen = [*exported.graph.output_node().all_input_nodes], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return any(node.target is torch.ops.aten.cumsum.default for node in seen)


def _positions(attention_mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The positions of the tokens at ``places`` (rows, tokens): how many the mask shows before them."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0).index_select(1, places)


class _Scoring:
    """Token ids (batch, sequence) → logits (batch, sequence, vocabulary)."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids=input_ids, use_cache=False).logits  # type: ignore[misc]


class _Encoding:
    """Token ids and attention mask (batch, sequence) → every tensor the model returns, by name."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(input_ids=input_ids, attention_mask=attention_mask)  # type: ignore[misc]
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def is_decoder(model: Any) -> bool:
    """Whether it predicts the next token."""
    from transformers import GenerationMixin

    return isinstance(model, GenerationMixin)


def default_cache_length(config: Any) -> int:
    """How many tokens a cache holds unless told: what the model was made for, at most 2,048."""
    return min(2048, getattr(config.get_text_config(), "max_position_embeddings", None) or 2048)


def export_decoder(model: Any, mode: Any, cache_length: int, batch: int = 1) -> ExportedProgram:
    """The decoder with its cache, for 1 to ``cache_length`` tokens at a time, of 1 to ``batch`` texts."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if cache_length < 2 or (limit is not None and cache_length > limit):
        raise CheckpointError(f"a cache of {cache_length} tokens does not fit a model for 2 to {limit} positions")
    # One place is never used: what is read is then never the whole buffer, which alone would be contiguous. Torch asks
    # for that while it exports, and an answer has to hold for all sizes.
    for number, (keys, values) in enumerate(_cache_shapes(model, mode, cache_length + 1)):
        for name, like in (("key", keys), ("value", values)):
            empty = torch.zeros(batch, *like.shape[1:], dtype=like.dtype)
            model.register_buffer(f"{name}_cache_{number}", empty, persistent=False)
    _extend(model, _Decoding)
    tokens, rows = min(5, cache_length), min(2, batch)
    with mode:
        inputs = {
            "input_ids": torch.zeros(rows, tokens, dtype=torch.long),
            "attention_mask": torch.ones(rows, min(tokens + 2, cache_length), dtype=torch.long),
        }
    texts = {0: Dim("rows", min=1, max=batch)} if batch > 1 else {}
    sizes = {"input_ids": "tokens", "attention_mask": "seen"}
    return export_model(
        model, inputs, {name: {**texts, 1: Dim(word, min=1, max=cache_length)} for name, word in sizes.items()}
    )


def check_rows(model: Any, exported: ExportedProgram, decoder: DecoderEntry) -> None:
    """Raise `CheckpointError` where texts beside each other would be misplaced, or calls for some of them refused.

    ``exported``: of `export_decoder`, functional.
    """
    refused, batch = "", decoder.batch
    expected = expected_inputs(read(exported))
    for rows, tokens, seen in ((1, 1, 1), (1, 2, 2), (batch, 2, 2), (batch, 1, 2), (batch, 1, decoder.cache_length)):
        given = {"input_ids": torch.zeros(rows, tokens).long(), "attention_mask": torch.ones(rows, seen).long()}
        try:
            bind_expected(expected, (), given)
        except InputError as error:
            refused = str(error.findings[0]) if error.findings else str(error)
    if not _counts_by_mask(exported):
        refused = "it takes no positions from its caller, so that padding before a text would move it"
    if refused:
        raise CheckpointError(
            f"{type(model).__bases__[-1].__name__} cannot write {batch} texts beside each other: {refused}\n"
            "  try: --batch 1, which writes them one after the other"
        )


def export_scores(model: Any, mode: Any) -> ExportedProgram:
    """The decoder without a cache: whole sequences in, all logits out."""
    _extend(model, _Scoring)
    return _export_batches(model, mode, ("input_ids",))


def export_encoder(model: Any, mode: Any) -> ExportedProgram:
    """A model of token ids and a mask."""
    _extend(model, _Encoding)
    return _export_batches(model, mode, ("input_ids", "attention_mask"))


def _export_batches(model: Any, mode: Any, names: tuple[str, ...]) -> ExportedProgram:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    shape = {0: Dim("batch", min=1, max=2**16), 1: Dim("sequence", min=2, max=limit or 2**20)}
    with mode:
        inputs = {name: torch.ones(2, 5, dtype=torch.long) for name in names}
    return export_model(model, inputs, dict.fromkeys(names, shape))


def _extend(model: Any, recipe: type) -> None:
    kind = type(model)
    model.__class__ = type(f"{recipe.__name__.lstrip('_')}{kind.__name__}", (recipe, kind), {})


def _cache_shapes(model: Any, mode: Any, cache_length: int) -> list[tuple[Any, Any]]:
    """The keys and values of every layer, as a run on one token makes them."""
    cache = StaticCache(model.config, max_cache_len=cache_length)
    odd = [type(layer).__name__ for layer in cache.layers if not isinstance(layer, StaticLayer)]
    if not odd:
        # A layer that looks back only so far masks what is further; here it keeps everything like the others.
        layers = [StaticLayer(cache_length) for _ in cache.layers]
        cache.layers = list(layers)
        # Experts in float32 run on kernels that torch knows no shapes of, unless they are told that they are traced.
        with as_exported(), mode, torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
        if all(layer.is_initialized for layer in layers):
            return [(layer.keys, layer.values) for layer in layers]
        odd = ["layers that share their cache"]
    raise CheckpointError(
        f"{type(model).__name__} keeps more than keys and values of every layer between tokens ({odd[0]})\n"
        "  try: --cache-length 0, for a program that takes whole sequences"
    )
