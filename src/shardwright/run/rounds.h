// How each collective goes, round by round: what a rank writes into its slot, and what it reads out of the others'.
// A slot is free again two phases later (`phases.h`).

#pragma once

#include <functional>

#include <c10/util/SmallVector.h>

#include "parts.h"
#include "phases.h"
#include "reductions.h"

namespace shardwright {

constexpr size_t kSmall = 32 << 10;  // all-reduces up to this many bytes take one round
constexpr size_t kBlock = 16 << 10;  // what is copied once more while it is in the processor's cache

// One collective. `write`: a round's part into my slot; `read`: out of the others' slots, and whether a round follows.
struct Rounds {
  Call call;
  std::function<void(size_t)> write;
  std::function<bool(size_t)> read;
};

using Pointers = c10::SmallVector<const char*, 16>;

// A slot that holds a piece for every rank: the bytes of one.
inline size_t piece_bytes(const Phases& phases, size_t header = 0) {
  return (phases.slot_bytes() - header) / phases.size() / kLine * kLine;
}

inline void write_pieces(Phases& phases, const Parts& parts, size_t piece, size_t round, size_t offset = 0) {
  char* slot = phases.slot(phases.rank()) + offset;
  for (int rank = 0; rank < phases.size(); ++rank) {
    if (rank == phases.rank()) continue;
    copy(slot + rank * piece, parts[rank].data + round * piece, within(parts[rank].bytes, round * piece, piece));
  }
}

// What every rank has at `offset` in its slot.
inline Pointers in_slots(Phases& phases, size_t offset) {
  Pointers found;
  for (int rank = 0; rank < phases.size(); ++rank) found.push_back(phases.slot(rank) + offset);
  return found;
}

namespace rounds {

inline Rounds barrier() {
  return {{Kind::barrier}, [](size_t) {}, [](size_t) { return false; }};
}

// Every rank reduces one slice of each chunk. A round brings the summands of a chunk, and the results of the one
// before: a slot holds a chunk, and behind it a slice.
inline Rounds all_reduce_in_slices(Phases& phases, const Call& call, Part whole, Reduce reduce, double divisor) {
  const size_t size = phases.size(), mine = phases.rank();
  const size_t share_most = phases.slot_bytes() / (size + 1) / kLine * kLine;
  const size_t chunks = rounds_for(whole.bytes, share_most * size);
  // Chunks of one length, so that the last is no stub; `kLine` is a multiple of every element's size.
  const size_t share = divided_up(divided_up(divided_up(whole.bytes, chunks), size), kLine) * kLine;
  const size_t chunk = share * size;
  auto begins = [=](size_t at, size_t rank) { return at * chunk + rank * share; };
  auto length = [=](size_t at, size_t rank) { return within(whole.bytes, begins(at, rank), share); };
  auto write = [=, &phases](size_t round) {
    if (round > 0) {
      const size_t start = begins(round - 1, mine), bytes = length(round - 1, mine);
      char* result = phases.slot(mine) + chunk;
      Pointers from(size);
      for (size_t at = 0; at < bytes; at += kBlock) {
        const size_t here = std::min(kBlock, bytes - at);
        for (size_t rank = 0; rank < size; ++rank) from[rank] = phases.last_slot(rank) + mine * share + at;
        from[mine] = whole.data + start + at;
        reduce(from.data(), size, whole.data + start + at, here, divisor);
        copy(result + at, whole.data + start + at, here);
      }
    }
    if (round == chunks) return;
    for (size_t rank = 0; rank < size; ++rank) {
      if (rank != mine) copy(phases.slot(mine) + rank * share, whole.data + begins(round, rank), length(round, rank));
    }
  };
  auto read = [=, &phases](size_t round) {
    for (size_t rank = 0; round > 0 && rank < size; ++rank) {
      if (rank != mine) copy(whole.data + begins(round - 1, rank), phases.slot(rank) + chunk, length(round - 1, rank));
    }
    return round < chunks;
  };
  return {call, write, read};
}

inline Rounds all_reduce(Phases& phases, Call call, Part whole, Reduce reduce, double divisor) {
  call.bytes = whole.bytes;
  if (whole.bytes > kSmall) return all_reduce_in_slices(phases, call, whole, reduce, divisor);
  return {
      call,
      [=, &phases](size_t) { copy(phases.slot(phases.rank()), whole.data, whole.bytes); },
      [=, &phases](size_t) {
        reduce(in_slots(phases, 0).data(), phases.size(), whole.data, whole.bytes, divisor);
        return false;
      }};
}

// `outputs`: what every rank brings, and where it goes; null: nowhere.
inline Rounds gather(Phases& phases, Call call, Part input, const Parts& outputs) {
  const size_t slot = phases.slot_bytes(), rounds = rounds_for(most_of(outputs), slot);
  call.bytes = sum_of(outputs);
  return {
      call,
      [=, &phases](size_t round) {
        copy(phases.slot(phases.rank()), input.data + round * slot, within(input.bytes, round * slot, slot));
      },
      [=, &phases](size_t round) {
        for (int rank = 0; rank < phases.size(); ++rank) {
          if (outputs[rank].data == nullptr) continue;
          const char* from = rank == phases.rank() ? input.data + round * slot : phases.slot(rank);
          copy(outputs[rank].data + round * slot, from, within(outputs[rank].bytes, round * slot, slot));
        }
        return round + 1 < rounds;
      }};
}

inline Rounds reduce_scatter(
    Phases& phases, Call call, const Parts& inputs, Part output, Reduce reduce, double divisor) {
  const size_t mine = phases.rank(), piece = piece_bytes(phases);
  const size_t rounds = rounds_for(most_of(inputs), piece);
  call.bytes = sum_of(inputs);
  return {
      call,
      [=, &phases](size_t round) { write_pieces(phases, inputs, piece, round); },
      [=, &phases](size_t round) {
        auto from = in_slots(phases, mine * piece);
        from[mine] = inputs[mine].data + round * piece;
        const size_t bytes = within(output.bytes, round * piece, piece);
        reduce(from.data(), from.size(), output.data + round * piece, bytes, divisor);
        return round + 1 < rounds;
      }};
}

// The most bytes that a rank sends to another, as the slots say; fails where another number is expected.
inline uint64_t most_sent(Phases& phases) {
  const size_t size = phases.size();
  uint64_t most = 0;
  for (size_t from = 0; from < size; ++from) {
    for (size_t to = 0; to < size; ++to) {
      const auto sends = reinterpret_cast<const uint64_t*>(phases.slot(from))[to];
      const auto expects = reinterpret_cast<const uint64_t*>(phases.slot(to))[size + from];
      most = std::max(most, sends);
      if (sends == expects) continue;
      phases.fail(c10::str(
          "all_to_all: rank ", phases.name(from), " sends ", sends, " bytes to rank ", phases.name(to),
          ", which expects ", expects));
    }
  }
  return most;
}

// A slot also says what its rank sends to every rank, and expects: all ranks find the same mistakes, and know how
// many rounds there are.
inline Rounds all_to_all(Phases& phases, const Call& call, const Parts& sent, const Parts& received) {
  const size_t size = phases.size(), mine = phases.rank();
  const size_t header = divided_up(2 * size * sizeof(uint64_t), kLine) * kLine;
  const size_t piece = piece_bytes(phases, header);
  auto write = [=, &phases](size_t round) {
    auto* sizes = reinterpret_cast<uint64_t*>(phases.slot(mine));
    for (size_t rank = 0; rank < size; ++rank) {
      sizes[rank] = sent[rank].bytes;
      sizes[size + rank] = received[rank].bytes;
    }
    write_pieces(phases, sent, piece, round, header);
  };
  auto read = [=, &phases](size_t round) {
    const uint64_t most = most_sent(phases);
    for (size_t rank = 0; rank < size; ++rank) {
      const char* from = rank == mine ? sent[mine].data + round * piece : phases.slot(rank) + header + mine * piece;
      copy(received[rank].data + round * piece, from, within(received[rank].bytes, round * piece, piece));
    }
    return (round + 1) * piece < most;
  };
  return {call, write, read};
}

inline Rounds broadcast(Phases& phases, Call call, Part whole) {
  const size_t slot = phases.slot_bytes(), rounds = rounds_for(whole.bytes, slot);
  const int root = call.root;
  call.bytes = whole.bytes;
  return {
      call,
      [=, &phases](size_t round) {
        if (phases.rank() != root) return;
        copy(phases.slot(root), whole.data + round * slot, within(whole.bytes, round * slot, slot));
      },
      [=, &phases](size_t round) {
        const size_t bytes = within(whole.bytes, round * slot, slot);
        if (phases.rank() != root) copy(whole.data + round * slot, phases.slot(root), bytes);
        return round + 1 < rounds;
      }};
}

// `inputs`: for every rank, on the root.
inline Rounds scatter(Phases& phases, Call call, const Parts& inputs, Part output) {
  const size_t mine = phases.rank(), piece = piece_bytes(phases), rounds = rounds_for(output.bytes, piece);
  const int root = call.root;
  call.bytes = output.bytes;
  return {
      call,
      [=, &phases](size_t round) {
        if (phases.rank() == root) write_pieces(phases, inputs, piece, round);
      },
      [=, &phases](size_t round) {
        const char* from = phases.rank() == root ? inputs[mine].data + round * piece : phases.slot(root) + mine * piece;
        copy(output.data + round * piece, from, within(output.bytes, round * piece, piece));
        return round + 1 < rounds;
      }};
}

}  // namespace rounds

}  // namespace shardwright
